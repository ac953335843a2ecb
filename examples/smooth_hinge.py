"""A hinge has no second derivative: influence through a smooth one, against a support vector machine's retraining.

Koh & Liang 2017, section 4.3 and figure 3. The machine (liblinear, no bias, L2 0.01) tells MNIST's 1 from 7; influence
is computed with t · log(1 + exp((1 − s)/t)) in the hinge's place; the 100 rows of the largest influence at t = 0 are
removed, one by one, and the machine with the true hinge is fitted again. That is compared in three ways: as the
paper's code does it, with the leverage correction, and with this at the surrogate's own minimum.

Usage: python examples/smooth_hinge.py [--quick]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.svm import LinearSVC

import undue
from agreement import agreement
from figures import diagonal, panels, save, table
from sources import mnist

L2 = 1e-2
TEMPERATURES = (0, 0.001, 0.01, 0.1)
NEARLY_NONE = 1e-6
"""In place of t = 0, whose curvature is nothing but the L2 term: there influence is a product of gradients over L2."""
TRAINED = 1800
"""Of the 2,197 ones and sevens; the others are test images."""
REMOVED = 100
WAYS = {
    "machine's weights": (False, False),
    "machine's weights, leverage": (False, True),
    "surrogate's minimum, leverage": (True, True),
}
"""Whether influence is taken at the surrogate's own minimum, and with the leverage correction."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """A support vector machine of training rows."""

    x: Floats
    """(n, 784)."""
    signs: Floats
    """(n,), ±1."""

    def fit(self, without: int = -1) -> Floats:
        """Return the weights (784,) that minimise (1/n) Σ max(0, 1 − y w·x) + L2/2 ‖w‖²; 1/n stays without a row."""
        kept = np.arange(len(self.x)) != without
        svc = LinearSVC(C=1 / (len(self.x) * L2), loss="hinge", tol=1e-10, fit_intercept=False, max_iter=10_000_000)
        return svc.set_params(random_state=0).fit(self.x[kept], self.signs[kept]).coef_[0]

    def smoothed(self, weights: Floats, t: float) -> Floats:
        """Return the minimum with the smooth hinge in the place of the hinge, by Newton's method from `weights`."""
        x = self.x * self.signs[:, None]

        def objective(w: Floats) -> tuple[float, Floats]:
            u = (1 - x @ w) / t
            return t * np.logaddexp(0, u).mean() + L2 / 2 * w @ w, L2 * w - x.T @ expit(u) / len(x)

        def hessian(w: Floats) -> Floats:
            p = expit((1 - x @ w) / t)
            return L2 * np.eye(len(w)) + (x.T * (p * (1 - p) / t / len(x))) @ x

        found = minimize(objective, weights, method="trust-exact", jac=True, hess=hessian, options={"gtol": 1e-9})
        return found.x


def influences(
    client: undue.Client,
    name: str,
    weights: Floats,
    t: float,
    train: undue.Dataset,
    test: undue.Dataset,
    rows: Sequence[int],
    leverage: bool,
) -> Floats:
    """Return what removing each training row is predicted to do to the loss of each test row, (rows, n)."""
    linear = torch.nn.Linear(784, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weights))
    objective = undue.Objective("smooth_hinge", l2=L2, temperature=t or NEARLY_NONE)
    example = torch.zeros(2, 784, dtype=torch.float64)
    model = client.models.register(name, linear, objective=objective, sample=train, example_inputs=example)
    settings = {"train": train, "test": test, "rows": rows, "top_k": None}
    if t == 0:
        return client.influence(model, method="grad_dot", **settings).result().scores.astype(np.float64) / L2
    job = client.influence(model, method="exact", leverage_correction=leverage, damping=0, **settings)
    return job.result().scores.astype(np.float64)


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three test images instead of ten")
    quick = parser.parse_args().quick
    images = mnist()
    images = images[(images.labels == 1) | (images.labels == 7)]
    x, signs = images.flat(np.float64), np.where(images.labels == 1, 1.0, -1.0)
    machine, (test_x, test_signs) = Machine(x[:TRAINED], signs[:TRAINED]), (x[TRAINED:], signs[TRAINED:])
    weights = machine.fit()
    margins = test_signs * (test_x @ weights)
    rows = [int(row) for row in np.argsort(margins)[: 3 if quick else 10]]  # the most wrong first

    def costs(w: Floats) -> Floats:
        return np.maximum(0, 1 - test_signs[rows] * (test_x[rows] @ w))

    predicted: dict[str, dict[float, Floats]] = {}
    with undue.Client.local() as client:
        train = client.datasets.register("train", undue.Arrays(machine.x, (machine.signs > 0).astype(np.int64)))
        test = client.datasets.register("test", undue.Arrays(test_x, (test_signs > 0).astype(np.int64)))
        for at, (way, (own, leverage)) in enumerate(WAYS.items()):
            of_way = predicted[way] = {}
            for t in TEMPERATURES:
                w = machine.smoothed(weights, t) if own and t else weights
                name = f"svm-{at}-{t:g}".replace(".", "-")
                of_way[t] = influences(client, name, w, t, train, test, rows, leverage)

    chosen = np.argsort(-np.abs(predicted[next(iter(WAYS))][0]), axis=1, kind="stable")[:, :REMOVED]
    fits = {int(row): machine.fit(int(row)) for row in np.unique(chosen)}
    before, after = costs(weights), {row: costs(w) for row, w in fits.items()}
    measured = np.array([[after[int(row)][at] - before[at] for row in chosen[at]] for at in range(len(rows))])
    wrong = int((margins < 0).sum())
    print(f"{TRAINED:,} rows, {len(fits)} of them removed; {wrong} of {len(margins)} test images misread")
    lines = []
    for way, of_way in predicted.items():
        found = {t: _pearsons(np.take_along_axis(of_way[t], chosen, axis=1), measured) for t in TEMPERATURES}
        lines.append([f"{way}; most wrong image", *(f"{found[t][0]:.3f}" for t in TEMPERATURES)])
        lines.append([f"{way}; mean of {len(rows)}", *(f"{found[t].mean():.3f}" for t in TEMPERATURES)])
    lines.append(["paper, one image", "0.632", "0.950", "", "0.914"])
    print(table(["Pearson", *(f"t = {t:g}" for t in TEMPERATURES)], lines))
    figure, axes = panels(len(TEMPERATURES), len(WAYS))
    panel = iter(axes)
    for way, of_way in predicted.items():
        for t in TEMPERATURES:
            diagonal(next(panel), of_way[t][0][chosen[0]], measured[0], f"t = {t:g}, {way}")
    save(figure, "smooth_hinge")


def _pearsons(predicted: Floats, measured: Floats) -> Floats:
    return np.array([agreement(p, m).pearson for p, m in zip(predicted, measured, strict=True)])


if __name__ == "__main__":
    main()
