"""Leave-one-out of a ten-class logistic regression: each solver against retraining (Koh & Liang 2017, figure 2, left).

Usage: python examples/leave_one_out.py [--quick] [--data mnist,fashion] [--rows 500]
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

import undue
from agreement import agreement, drawn_and_largest
from figures import diagonal, panels, save, table
from sources import Images, fashion_mnist, mnist

L2 = 1e-2
SOLVERS = {
    "exact": {"method": "exact"},
    "exact, plain": {"method": "exact", "leverage_correction": False},
    "cg": {"method": "cg"},
    "lissa": {"method": "lissa"},
    "ekfac": {"method": "ekfac"},
    "grad_dot": {"method": "grad_dot"},
}
HEADER = ("solver", "Pearson, largest", "slope", "Pearson, random", "slope", "seconds")


@dataclass(frozen=True)
class Workload:
    """What a regression is trained on, and what it is asked about."""

    name: str
    train: Images
    test: Images


def workload(name: str, quick: bool) -> Workload:
    """Return MNIST's 10,000 digits, split 9,000 to 1,000, or Fashion-MNIST's first 55,000 images with its test set."""
    if name == "fashion":
        return Workload("Fashion-MNIST", fashion_mnist("train")[: 1000 if quick else 55_000], fashion_mnist("test"))
    digits = mnist()
    return Workload("MNIST-10k", digits[: 1000 if quick else 9000], digits[9000:])


def fit(images: Images) -> torch.nn.Linear:
    """Minimise the mean cross-entropy + L2/2 ‖θ‖² over 784 × 10 weights, no bias, by L-BFGS."""
    x, y = torch.from_numpy(images.flat()), torch.from_numpy(images.labels)
    linear = torch.nn.Linear(784, 10, bias=False)
    torch.nn.init.zeros_(linear.weight)
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=500, history_size=20, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(linear(x), y) + L2 / 2 * linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(objective)
    return linear


def misread(linear: torch.nn.Linear, images: Images) -> int:
    """Return the first test image whose class is not the one predicted: as in the paper, a wrong prediction."""
    with torch.no_grad():
        predicted = linear(torch.from_numpy(images.flat())).argmax(1).numpy()
    return int(np.flatnonzero(predicted != images.labels)[0])


def run(client: undue.Client, data: Workload, count: int, solvers: Iterable[str]) -> list[list[str]]:
    """Explain one wrong prediction by every solver; retrain without the rows that matter most, and random ones."""
    linear = fit(data.train)
    slug = data.name.lower()
    train = client.datasets.register(f"{slug}-train", undue.Arrays(data.train.flat(), data.train.labels))
    test = client.datasets.register(f"{slug}-test", undue.Arrays(data.test.flat(), data.test.labels))
    model = client.models.register(
        slug,
        linear,
        objective=undue.Objective("cross_entropy", l2=L2),
        sample=train,
        example_inputs=torch.zeros(2, 784),
    )
    row = misread(linear, data.test)
    scores, seconds = {}, {}
    for name in solvers:
        started = time.perf_counter()
        job = client.influence(model, train=train, test=test, rows=[row], top_k=None, **SOLVERS[name])
        scores[name] = job.result().scores[0]
        seconds[name] = time.perf_counter() - started
    drawn, largest = drawn_and_largest(scores["exact"], count)
    started = time.perf_counter()
    retrained = client.retrain(model, train=train, test=test, rows=[row], without=[[one] for one in drawn + largest])
    measured = retrained.result().changes[:, 0]
    print(
        f"{data.name}: {len(drawn) + len(largest):,} retrainings of {linear.weight.numel():,} parameters on"
        f" {len(data.train):,} rows in {time.perf_counter() - started:,.0f} s; test row {row}"
    )
    figure, axes = panels(len(scores), 2)
    lines = []
    for at, (name, of_rows) in enumerate(scores.items()):
        cells: list[str] = []
        for below, (what, rows, changes) in enumerate(
            (("largest", largest, measured[len(drawn) :]), ("random", drawn, measured[: len(drawn)]))
        ):
            found = agreement(of_rows[rows], changes)
            cells += [f"{found.pearson:.4f}", f"{found.slope:.3f}"]
            diagonal(axes[below * len(scores) + at], of_rows[rows], changes, f"{name}, {len(rows)} {what} rows")
        lines.append([name, *cells, f"{seconds[name]:,.1f}"])
    figure.suptitle(f"{data.name}: change of one test row's loss without a training row")
    save(figure, f"leave_one_out-{slug}")
    return lines


def main() -> None:
    """Print a table and write a figure for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 digits and 50 rows of each kind")
    parser.add_argument("--data", help="of mnist and fashion, with a comma between; both if left out")
    parser.add_argument("--rows", type=int, help="training rows that are removed, of each kind (500)")
    arguments = parser.parse_args()
    count = arguments.rows or (50 if arguments.quick else 500)
    with undue.Client.local() as client:
        for name in (arguments.data or ("mnist" if arguments.quick else "mnist,fashion")).split(","):
            print(table(HEADER, run(client, workload(name, arguments.quick), count, SOLVERS)), flush=True)


if __name__ == "__main__":
    main()
