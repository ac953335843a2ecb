"""Leave-one-out retraining of convex heads: our batched fits beside the loops that a user would write.

`python -m benchmarks.retraining` on Fashion-MNIST: a softmax head on 10,000 images, and a binary one on 1,800 pullovers
and coats. The loops are measured on a few of the rows, and their time is taken times the number of rows.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from . import machine, results
from .data import Split, fashion
from .results import table

NAME = "retraining"
REMOVED, LOOPED, TESTS = 500, 4, 100
TOLERANCES = (1e-7, 1e-9)
PULLOVER, COAT = 2, 4
SAYS = f"""\
## Leave-one-out retraining

`python -m benchmarks.retraining`: {REMOVED} rows of a data set are removed one at a time, and the head is fitted again;
the costs of {TESTS} test rows are measured. *Ours* is `retrain` of the engine, from a registered minimum to
‖∇R‖ ≤ 1e-10, with everything that it does once (the factorisation) in its time. The loops start each fit at the same
minimum: SciPy's L-BFGS-B with its analytic gradient in NumPy, ended by `gtol`, and scikit-learn's `LogisticRegression`
with `warm_start`, whose intercept has no L2, so that only its time is compared. They run on {LOOPED} of the rows.
*Error* is the distance of the changes of the test losses from ours over their length, the largest of these rows: what a
loop that stops early gets wrong. Seconds are those of a processor, which other work on the machine disturbs least.
"""


def measure(threads: int = 1) -> dict[str, Any]:
    """Measure both heads and write them down."""
    machine.limit(threads)
    record: dict[str, Any] = {"machine": machine.describe(threads, "cpu", "float64"), "heads": []}
    everything = fashion(10_000, TESTS)
    for title, data, classes, l2 in (
        ("softmax, 784 × 10", everything, 10, 1e-2),
        ("binary, 784", _two(fashion(12_000, 1_000)), 1, 1e-3),
    ):
        record["heads"].append({"title": title, "rows": len(data.x), "l2": l2, **_head(data, classes, l2)})
        print(record["heads"][-1], flush=True)
        results.write(NAME, record)
    return record


def _two(data: Split) -> Split:
    """Return 900 pullovers and 900 coats to train on, and test rows of both."""

    def of(x: torch.Tensor, y: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.cat([(y == label).nonzero()[:most, 0] for label in (PULLOVER, COAT)])
        return x[at], (y[at] == COAT).long()

    return Split(*of(data.x, data.y, 900), *of(data.test_x, data.test_y, TESTS // 2))


def _head(data: Split, classes: int, l2: float) -> dict[str, Any]:
    x = np.hstack([data.x.double().numpy(), np.ones((len(data.x), 1))])
    y = data.y.numpy()
    star, _ = _scipy(x, y, classes, l2, np.zeros(x.shape[1] * classes), 1e-9)
    removed = np.random.default_rng(0).choice(len(x), REMOVED, replace=False)
    before = time.process_time(), time.perf_counter()
    star, changes, found = _ours(data, classes, l2, star, removed)
    ours = {"cpu": time.process_time() - before[0], "wall": time.perf_counter() - before[1], **found}
    loops = []
    xt = np.hstack([data.test_x.double().numpy(), np.ones((len(data.test_x), 1))])
    costs = _losses(xt, data.test_y.numpy(), star, classes)
    for gtol in TOLERANCES:

        def fit(i: int, gtol: float = gtol) -> tuple[np.ndarray, int]:
            keep = np.arange(len(x)) != i
            # n stays: the mean over the n − 1 rows times (n − 1)/n.
            return _scipy(x[keep], y[keep], classes, l2, star, gtol, len(x))

        loops.append(
            {"loop": f"SciPy L-BFGS-B, gtol {gtol:g}", **_looped(fit, removed, changes, xt, data, classes, costs)}
        )
    loops.append({"loop": "scikit-learn, tol 1e-8", **_sklearn(data, l2, removed)})
    return {"ours": ours, "loops": loops}


def _ours(
    data: Split, classes: int, l2: float, star: np.ndarray, removed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    from undue_service.domain.specs import ObjectiveSpec
    from undue_service.engine.data import TensorRows
    from undue_service.engine.objective import Objective
    from undue_service.engine.program import Program
    from undue_service.engine.retraining.retrain import retrain

    theta = torch.as_tensor(star).view(-1, classes)
    module = nn.Linear(data.x.shape[1], classes).double()
    module.load_state_dict({"weight": theta[:-1].T, "bias": theta[-1]})
    exported = torch.export.export(module, (data.x[:3].double(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    program = Program.from_exported(exported).to("cpu", torch.float64)
    loss = "cross_entropy" if classes > 1 else "binary_logistic"
    objective = Objective(program, ObjectiveSpec(loss, l2))
    rows, tests = TensorRows({"x": data.x}, data.y), TensorRows({"x": data.test_x}, data.test_y)
    found = retrain(objective, rows, tests, without=[[int(row)] for row in removed])
    return (
        star,
        found.changes,
        {"gradient_norm": float(found.gradient_norms.max()), "steps": float(found.iterations.mean())},
    )


def _scipy(
    x: np.ndarray, y: np.ndarray, classes: int, l2: float, start: np.ndarray, gtol: float, n: int | None = None
) -> tuple[np.ndarray, int]:
    from scipy.optimize import minimize

    n = n or len(x)
    hot = np.eye(classes)[y] if classes > 1 else None

    def risk(theta: np.ndarray) -> tuple[float, np.ndarray]:
        at = theta.reshape(-1, classes)
        f = x @ at
        if hot is None:
            p = 1 / (1 + np.exp(-f))
            value, slope = np.logaddexp(0, (1 - 2 * y) * f[:, 0]).sum(), p - y[:, None]
        else:
            top = f.max(axis=1, keepdims=True)
            e = np.exp(f - top)
            s = e.sum(axis=1, keepdims=True)
            value, slope = (np.log(s[:, 0]) + top[:, 0] - (f * hot).sum(axis=1)).sum(), e / s - hot
        return value / n + l2 / 2 * (theta @ theta), ((x.T @ slope) / n + l2 * at).ravel()

    options = {"maxiter": 10**5, "maxfun": 10**5, "gtol": gtol, "ftol": 0}
    found = minimize(risk, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, int(found.nfev)


def _losses(x: np.ndarray, y: np.ndarray, theta: np.ndarray, classes: int) -> np.ndarray:
    f = torch.as_tensor(x @ theta.reshape(-1, classes))
    labels = torch.as_tensor(y)
    if classes > 1:
        return nn.functional.cross_entropy(f, labels, reduction="none").numpy()
    return nn.functional.binary_cross_entropy_with_logits(f[:, 0], labels.double(), reduction="none").numpy()


def _looped(
    fit: Callable[[int], tuple[np.ndarray, int]],
    removed: np.ndarray,
    changes: np.ndarray,
    xt: np.ndarray,
    data: Split,
    classes: int,
    costs: np.ndarray,
) -> dict[str, float]:
    before = time.process_time(), time.perf_counter()
    fits = [fit(int(row)) for row in removed[:LOOPED]]
    cpu, wall = time.process_time() - before[0], time.perf_counter() - before[1]
    errors = []
    for k, (theta, _) in enumerate(fits):
        own = _losses(xt, data.test_y.numpy(), theta, classes) - costs
        errors.append(float(np.linalg.norm(own - changes[k]) / np.linalg.norm(changes[k])))
    evaluations = float(np.mean([count for _, count in fits]))
    share = REMOVED / LOOPED
    return {"cpu": cpu * share, "wall": wall * share, "evaluations": evaluations, "error": max(errors)}


def _sklearn(data: Split, l2: float, removed: np.ndarray) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression

    x, y = data.x.double().numpy(), data.y.numpy()
    model = LogisticRegression(C=1 / (len(x) * l2), max_iter=10**5, tol=1e-8, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
        coefficients, intercept = model.coef_.copy(), model.intercept_.copy()
        before, counts = (time.process_time(), time.perf_counter()), []
        for row in removed[:LOOPED]:
            model.coef_, model.intercept_ = coefficients.copy(), intercept.copy()
            keep = np.arange(len(x)) != row
            counts.append(int(np.max(model.fit(x[keep], y[keep]).n_iter_)))
    share = REMOVED / LOOPED
    cpu, wall = time.process_time() - before[0], time.perf_counter() - before[1]
    return {"cpu": cpu * share, "wall": wall * share, "evaluations": float(np.mean(counts))}


def section(record: Mapping[str, Any]) -> str:
    """Return the part of the page."""
    rows = [["head", "by", "evaluations a fit", f"s of {REMOVED}", "ours is faster by", "error"]]
    for head in record["heads"]:
        title = f"{head['title']}, {head['rows']:,} rows, l2 {head['l2']:g}"
        ours = head["ours"]
        rows.append([title, "ours", f"{ours['steps']:.1f}", f"{ours['cpu']:.1f}", "", ""])
        for one in head["loops"]:
            error = f"{one['error']:.1%}" if "error" in one else "—"
            faster = f"{one['cpu'] / ours['cpu']:.0f} ×"
            rows.append(["", one["loop"], f"{one['evaluations']:.0f}", f"{one['cpu']:.0f}", faster, error])
    return f"{SAYS}\n{table(rows)}\n{machine.line(record['machine'])}"


if __name__ == "__main__":
    measure()
