"""A network that is not convex: influence against training it again (Koh & Liang 2017, section 4.2, figure 2, right).

The paper's all-convolutional network is trained on 5,500 images of MNIST and of Fashion-MNIST, near to a minimum. A
test image that it misreads is explained; the training rows of the largest influence, and random ones, are left out one
by one, and training goes on from the registered weights by the recipe: the same batches with and without the row.

Usage: python examples/cnn.py [--quick] [--data mnist,fashion] [--rows 100] [--random 100] [--epochs N] [--lr 1e-3]
"""

import argparse
import time

import numpy as np
import torch

import undue
from agreement import agreement, drawn_and_largest
from cnn_model import L2, AllConvolutional, trained
from figures import diagonal, panels, save, table
from sources import Images, fashion_mnist, mnist

TRAINED = 5500
DAMPING = 1e-2
"""The paper's."""
METHODS = ("gauss_newton", "ekfac", "grad_dot")
AT_ONCE = 30
LR, BATCH = 1e-3, 100
EPOCHS = {"mnist": 10, "fashion": 20}
"""Of the trainings without a row, by Adam with a learning rate that falls to 0 along a cosine. With half as many, a row
of the clothes changes less than half of what it will, and the rest is not in proportion."""


def data(name: str, quick: bool) -> tuple[Images, Images]:
    """Return training and test images."""
    rows = 500 if quick else TRAINED
    if name == "fashion":
        return fashion_mnist("train")[:rows], fashion_mnist("test")
    digits = mnist()
    return digits[:rows], digits[TRAINED:]


def misread(network: AllConvolutional, images: Images) -> int:
    """Return the first image whose class is not the one predicted."""
    with torch.no_grad():
        predicted = network(torch.from_numpy(images.channels())).argmax(1).numpy()
    return int(np.flatnonzero(predicted != images.labels)[0])


def run(
    client: undue.Client, name: str, count: int, random: int, epochs: int, lr: float, quick: bool
) -> list[list[str]]:
    """Explain one wrong prediction by every method, train again without the rows that matter most, and random ones."""
    images, tests = data(name, quick)
    network = trained(name, images, *[20] * quick)
    row = misread(network, tests)
    train = client.datasets.register(f"{name}-train", undue.Arrays(images.channels(), images.labels))
    test = client.datasets.register(f"{name}-test", undue.Arrays(tests.channels(), tests.labels))
    model = client.models.register(
        f"cnn-{name}",
        network,
        objective=undue.Objective("cross_entropy", l2=L2, l2_exclude=["*bias"]),
        sample=train,
        example_inputs=torch.zeros(2, 1, 28, 28),
        training=undue.Training("adam", lr, epochs=epochs, batch_size=BATCH, schedule="cosine"),
    )
    scores, notes = {}, {}
    for method in METHODS:
        damping = None if method == "grad_dot" else DAMPING
        started = time.perf_counter()
        job = client.influence(model, train=train, test=test, rows=[row], method=method, damping=damping, top_k=None)
        try:
            scores[method] = job.result().scores[0]
        except undue.JobFailed as error:
            print(f"{method}: {error}")
            continue
        notes[method] = f"{time.perf_counter() - started:,.1f}"
        print(f"{name}, {method}: {notes[method]} s", flush=True)
    stationarity = job.result().diagnostics.stationarity
    drawn, largest = drawn_and_largest(scores["gauss_newton"], count)
    drawn = drawn[:random]
    started = time.perf_counter()
    sets = [[one] for one in largest + drawn]
    changes: list[float] = []
    for at in range(0, len(sets), AT_ONCE):  # in parts, so that what is measured is seen early
        some = sets[at : at + AT_ONCE]
        found = client.retrain(model, train=train, test=test, rows=[row], without=some, start="warm").result()
        changes += found.changes[:, 0].tolist()
        so_far = agreement(scores["gauss_newton"][[one for (one,) in sets[: len(changes)]]], np.array(changes))
        print(f"{len(changes)} of {len(sets)} trainings, Pearson so far {so_far.pearson:.3f}", flush=True)
    measured = np.array(changes)
    print(
        f"{name}: {len(sets)} trainings of 2,616 parameters on {len(images):,} rows in"
        f" {time.perf_counter() - started:,.0f} s; test image {row}, {stationarity}\n{found.diagnostics.recipe}"
    )
    figure, axes = panels(len(scores), 2)
    lines = []
    for at, (method, of_rows) in enumerate(scores.items()):
        cells: list[str] = []
        for below, (what, rows, changes) in enumerate(
            (("largest", largest, measured[: len(largest)]), ("random", drawn, measured[len(largest) :]))
        ):
            agrees = agreement(of_rows[rows], changes)
            cells += [f"{agrees.pearson:.3f}", f"{agrees.spearman:.3f}", f"{agrees.slope:.2f}"]
            diagonal(axes[below * len(scores) + at], of_rows[rows], changes, f"{method}, {len(rows)} {what} rows")
        lines.append([method, *cells, notes[method]])
    save(figure, f"cnn-{name}")
    return lines


def main() -> None:
    """Print a table and write a figure for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="500 digits and 10 rows of each kind")
    parser.add_argument("--data", help="of mnist and fashion, with a comma between; both if left out")
    parser.add_argument("--rows", type=int, help="training rows of the largest influence that are removed (100)")
    parser.add_argument("--random", type=int, help="random training rows that are removed (as many)")
    parser.add_argument("--epochs", type=int, help="of a training without a row (10; on clothes 20)")
    parser.add_argument("--lr", type=float, default=LR, help=f"of a training without a row, at first ({LR})")
    arguments = parser.parse_args()
    names = (arguments.data or ("mnist" if arguments.quick else "mnist,fashion")).split(",")
    if unknown := set(names) - set(EPOCHS):
        parser.error(f"there is no data called {', '.join(sorted(unknown))}: mnist and fashion are known")
    count = arguments.rows or (10 if arguments.quick else 100)
    random = min(count, arguments.random or count)
    header = ["method", "Pearson, largest", "Spearman", "slope", "Pearson, random", "Spearman", "slope", "seconds"]
    with undue.Client.local() as client:
        for name in names:
            epochs = arguments.epochs or EPOCHS[name]
            lines = run(client, name, count, random, epochs, arguments.lr, arguments.quick)
            print(table(header, lines), flush=True)


if __name__ == "__main__":
    main()
