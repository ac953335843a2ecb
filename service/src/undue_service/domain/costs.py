"""What a job would take: floating-point operations and bytes of each method, at the speed that was measured.

P selected parameters, C outputs, n training rows, m test rows. A pass over the training rows costs n row gradients, as
timed at registration. The constants were fitted to jobs on digits, on two idle cores, where the estimates came to
0.5–2.2 times the seconds and 0.8–1.1 times the memory measured (tests/e2e/test_estimates.py, which allows for a machine
that is busy).
"""

from dataclasses import dataclass, replace

from .reports import ModelReport, Speed
from .specs import Influence, RequestedJob, Retrain, SelfInfluence

BLOCK_BYTES = 2**30
"""The engine's budget for the intermediate values of a block of rows, unless the operator sets another."""
BLOCK_ROWS = 4096
QUERIES_TOGETHER = 1024
SOLVE_ITERATIONS = 30
"""Of conjugate gradients on one column; the true number is about √κ and not known before. A block ends after about P
over its columns."""
LISSA_PASSES = 40
"""Of all rows for one column: some ten, but products with few rows each are slow. More where κ is large."""
LANCZOS_STEPS = 20
ARNOLDI_RANK = 128
"""Unless asked otherwise; about twice as many products find the eigenpairs."""
FIT_PRODUCTS = 24
"""What a fit without some rows costs, in products of the features with its coefficients: three Newton steps, each some
products, values and what lies between them.
"""
EFFICIENCY = 0.4
"""Of the products of a job, beside one large square product."""
SCORE_SECONDS = 5e-8
"""Of ranking one score among the most helpful and the most harmful."""
_FLOAT64 = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would take."""

    rows: int
    """Rows that are read, each once."""
    peak_bytes: int
    """Memory of the runner at its peak."""
    seconds: float
    """Time of computing, once a runner has started and opened the model."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done beside reading the data, and what is held meanwhile."""

    passes: float
    """Over the training rows, each a gradient a row."""
    flops: float = 0
    held: float = 0
    """Bytes."""
    products: float = 0
    """Hessian-vector products over all training rows, of a model that is no linear head."""
    columns: float = 0
    """As many of them as are made in one pass."""
    scores: float = 0
    """Numbers that are ranked."""


def estimate(
    spec: RequestedJob,
    model: ModelReport,
    speed: Speed,
    train_rows: int,
    test_rows: int,
    block_bytes: int = BLOCK_BYTES,
) -> Estimate:
    """Return what a job would take on `test_rows` explained or measured rows (none for self-influence)."""
    n, m = train_rows, 1 if isinstance(spec, Influence) and spec.aggregate else test_rows
    match spec:
        case Influence(method=method):
            work = _solving(spec, method, model, n, m, block_bytes)
            together = min(m, QUERIES_TOGETHER)
            scoring = min(block_bytes / 2, _FLOAT64 * min(n, BLOCK_ROWS) * (model.outputs_per_row + 2) * together)
            matrix = 4 * n * m if spec.top_k is None else 0
            held = work.held + scoring + matrix + _FLOAT64 * 2 * model.dim * together
            work = replace(
                work, passes=work.passes + 1, flops=work.flops + 2 * n * model.dim * m, held=held, scores=n * m
            )
        case SelfInfluence(method=method):
            work = _solving(spec, method, model, n, n, block_bytes)
        case Retrain(without=without):
            work = _retraining(model, n, m, len(without))
    seconds = (work.passes * n + test_rows) * speed.row_seconds + work.products * n * speed.product_seconds
    seconds += work.flops / (EFFICIENCY * speed.flops_per_second) + work.scores * SCORE_SECONDS
    rows = min(n, BLOCK_ROWS)
    block: float = min(block_bytes, rows * speed.row_bytes)
    if work.products:
        # `Hessian` plans for eight times a row's intermediate values in each column, and uses a good half of that. A row
        # of factored gradients takes four times them, and about once again for the factors.
        values = speed.row_bytes / _FLOAT64 / 5
        block = min(0.6 * block_bytes, work.columns * _FLOAT64 * (8 * rows * values + 4 * model.dim))
    return Estimate(n + test_rows, int(speed.base_bytes + block + work.held), seconds)


def _solving(
    spec: Influence | SelfInfluence, method: str, model: ModelReport, n: int, columns: int, block_bytes: int
) -> _Work:
    """Return what preparing a method and solving for `columns` takes; measuring the fit is the first pass."""
    P, C = model.dim, model.outputs_per_row
    if method == "exact":
        dense = _FLOAT64 * P * P
        solving = P**3 + 4 * P * P * columns
        if not model.linear_head:
            return _Work(1, solving, 3 * dense, products=P, columns=P)
        curvature = n * P * P * (C + 1) / C  # the upper half of the blocks of outputs
        # The leverage correction is a pass over the same blocks.
        passes = 2 if spec.leverage_correction is not False else 1
        return _Work(1 + passes, passes * curvature + solving, 4 * dense)
    if method == "cg":
        together = min(columns, max(1, block_bytes // (_FLOAT64 * 8 * P)))
        iterations = min(spec.max_iterations or SOLVE_ITERATIONS, SOLVE_ITERATIONS, 2 + P / together)
        held = _FLOAT64 * 8 * P * together
        if model.linear_head:
            return _Work(2, 4 * n * P * columns * iterations, held + _features(model, n, block_bytes))
        return _Work(1, 0, held, products=iterations * columns, columns=together)
    if method in ("lissa", "arnoldi"):
        rank = min(P, spec.rank or ARNOLDI_RANK)
        products = LISSA_PASSES * columns + LANCZOS_STEPS if method == "lissa" else 2 * rank + columns
        together = min(columns, max(1, block_bytes // (_FLOAT64 * 8 * P)))
        held = _FLOAT64 * P * (8 * together + (0 if method == "lissa" else 4 * rank))
        if model.linear_head:
            return _Work(2, 4 * n * P * products, held + _features(model, n, block_bytes))
        return _Work(1, 0, held, products=products, columns=together)
    return _Work(1)


def _features(model: ModelReport, n: int, block_bytes: int) -> float:
    """Return the bytes of what a linear head keeps of the rows, where that is little enough to be kept."""
    kept = _FLOAT64 * n * (model.dim / model.outputs_per_row + model.outputs_per_row**2)
    return kept if kept <= block_bytes / 4 else 0


def _retraining(model: ModelReport, n: int, m: int, fits: int) -> _Work:
    """Return what the fits take: some Newton iterations each, over features that are computed once."""
    P, C = model.dim, model.outputs_per_row
    curvature = n * P * P * (C + 1) / C
    per_fit = FIT_PRODUCTS * 4 * n * P + 2 * m * P
    held = 3 * _FLOAT64 * P * P + _FLOAT64 * n * (P / C + C) + _FLOAT64 * fits * m
    return _Work(3, 3 * (curvature + P**3) + fits * per_fit, held)
