"""What really changes when training rows are removed: the head is fitted again without them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT

from .data import Rows
from .determined import Determination
from .diagnostics import EngineDiagnostics, begin
from .head_rows import HeadRows, registered, repeated
from .measurements import check_measurement, measure
from .methods import Problem
from .newton import CONVERGED, Minima, Newton, Preconditioner
from .objective import Objective
from .progress import Progress, silent
from .queries import asked_rows
from .removal import Removals
from .solvers.refusals import refuse_not_finite

DEFAULT_TOLERANCE = 1e-10
DEFAULT_MAX_ITERATIONS = 100
_LIFT = 1e-6
_FEW_AT_ONCE = 8
_MOST_AT_ONCE = 64  # more fits in step are no faster, and a caller wants to hear from us


@dataclass(frozen=True)
class Retraining:
    """What k fits without some training rows make of m test rows."""

    rows: NDArray[np.int64]
    """(m,) test rows."""
    costs: NDArray[np.float64]
    """(m,) at the minimiser on all training rows."""
    without: tuple[tuple[int, ...], ...]
    """k sets of training rows."""
    changes: NDArray[np.float64]
    """(k, m): cost at the minimiser without the rows, minus `costs`."""
    gradient_norms: NDArray[np.float64]
    """(k,): ‖∇R‖ of each fit at its end."""
    iterations: NDArray[np.int64]
    """(k,) Newton steps."""
    distance: float
    """‖θ̂ − θ̂*‖ from the registered weights to the minimiser on all training rows."""
    diagnostics: EngineDiagnostics


def retrain(
    objective: Objective,
    train: Rows,
    test: Rows,
    *,
    without: Sequence[Sequence[int]],
    rows: Sequence[int] | None = None,
    measurement: str = "loss",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Retraining:
    """Measure the change of test rows' costs on removing training rows.

    For each set S the minimiser of (1/n) Σ_{i ∉ S} w_i ℓ_i + l2/2 ‖mask ∘ θ‖² is found to ‖∇R‖ ≤ tolerance. Each fit
    starts from θ̂*, the minimiser on all rows; that is found first, from the registered weights θ̂, which may stop short
    of it. Costs before are those at θ̂*. Test rows without targets are measured at the label that θ̂ predicts.

    Args:
        objective: a model with a linear head, in float64.
        train: the n rows that it was trained on.
        test: where the change is measured.
        without: the sets of rows of `train`.
        rows: row numbers of `test`; None means all.
        measurement: the cost: "loss", "logit" or "margin".
        tolerance: of ‖∇R‖; None is 1e-10.
        max_iterations: Newton steps of one fit at most; None is 100.
        memory_bytes: budget of the features that are kept, of intermediate values, and of the changes.
        progress: called between blocks.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE, INVALID_FIELD, INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING,
            MODEL_UNSUPPORTED.
        FailedPrecondition: RETRAIN_UNSUPPORTED where the model is no linear head, TOO_MANY_PARAMETERS,
            SOLVER_NOT_CONVERGED, HESSIAN_SINGULAR where the rows that are left do not determine the predictions,
            NON_FINITE_RESULT.
        ResourceExhausted: OUT_OF_MEMORY where the changes would not fit.
    """
    started = time.perf_counter()
    _check_head(objective)
    check_measurement(measurement, objective.loss)
    newton = _settings(tolerance, max_iterations)
    wanted = asked_rows(rows, len(test))
    sets = _removed(without, len(train))
    changes = _changes(len(sets), len(wanted), memory_bytes)
    diagnosis = begin(Problem(objective, train, memory_bytes=memory_bytes, progress=progress))
    share = memory_bytes // 4
    features = HeadRows(objective, train, memory_bytes=share, progress=progress)
    tests = HeadRows(objective, test, wanted, explained=True, memory_bytes=share, progress=progress)

    def removals(some: Sequence[Sequence[int]], stage: str, done: int, total: int) -> Removals:
        return Removals(objective, features, some, memory_bytes=share, told=lambda: progress(stage, done, total))

    whole = removals([()], "fit on all rows", 0, 1)
    full = newton.minimise(whole, registered(objective)[:, None], lambda at: _factorised(whole, at[:, 0]))
    _check_converged(full, 0, None, newton)
    full = newton.polish(full, whole, lambda at: _factorised(whole, at[:, 0]))
    star = full.coefficients[:, 0]
    frozen = _factorised(whole, star)
    determination = Determination(whole, star)
    costs = _costs(objective, tests, measurement, full.coefficients)[0]
    norms, iterations, products = np.empty(len(sets)), np.empty(len(sets), dtype=np.int64), full.products
    size = _at_once(objective, features, tests, share)
    for first in range(0, len(sets), size):
        some = sets[first : first + size]
        objectives = removals(some, "fits without rows", first, len(sets))
        _check_left(objectives, some, first)
        determination.check(objectives, some, first)
        found = newton.minimise(objectives, star[:, None].expand(-1, len(some), -1), lambda _: frozen)
        _check_converged(found, first, some, newton)
        here = slice(first, first + len(some))
        changes[here] = _costs(objective, tests, measurement, found.coefficients) - costs
        norms[here], iterations[here] = found.gradient_norms.cpu().numpy(), found.iterations.cpu().numpy()
        products += found.products
        progress("fits without rows", here.stop, len(sets))
    return Retraining(
        rows=np.array(wanted, dtype=np.int64),
        costs=costs,
        without=sets,
        changes=changes,
        gradient_norms=norms,
        iterations=iterations,
        distance=float((star - registered(objective)).norm()),
        diagnostics=EngineDiagnostics(
            estimand=f"measured change of the test row's {measurement} when the training rows are removed and the "
            "selected parameters are fitted again to convergence",
            scale="removal",
            method="retrain",
            damping=0.0,
            damping_source="unused",
            leverage_correction=False,
            solver="newton",
            solver_status=CONVERGED,
            residual=float(norms.max()),
            matvecs=products,
            stationarity=diagnosis.stationarity,
            dtype=str(objective.program.dtype).removeprefix("torch."),
            device=str(objective.program.device),
            seconds=time.perf_counter() - started,
            warnings=(*diagnosis.warnings, *determination.warnings),
        ),
    )


def _check_head(objective: Objective) -> None:
    if objective.head is None:
        text = (
            "retraining to convergence needs a prediction that is linear in every selected parameter, and this model's "
            "is not: register it with the last layer alone, parameters=[…] (its report lists the names)"
        )
        raise FailedPrecondition(Reason.RETRAIN_UNSUPPORTED, text)
    if objective.space.dim > DENSE_PARAMETER_LIMIT:
        text = (
            f"retraining factorises a matrix over the selected parameters, of which there are {objective.space.dim:,}; "
            f"the limit is {DENSE_PARAMETER_LIMIT:,}: select fewer with parameters="
        )
        metadata = {"parameters": str(objective.space.dim), "limit": str(DENSE_PARAMETER_LIMIT)}
        raise FailedPrecondition(Reason.TOO_MANY_PARAMETERS, text, metadata=metadata)


def _settings(tolerance: float | None, max_iterations: int | None) -> Newton:
    newton = Newton(
        DEFAULT_TOLERANCE if tolerance is None else tolerance,
        DEFAULT_MAX_ITERATIONS if max_iterations is None else max_iterations,
    )
    if not 0 < newton.tolerance < 1:
        raise InvalidArgument.at("tolerance", f"‖∇R‖ to stop at lies between 0 and 1, not {tolerance}")
    if newton.max_iterations < 1:
        raise InvalidArgument.at("max_iterations", f"is at least 1, not {max_iterations}")
    return newton


def _removed(without: Sequence[Sequence[int]], n: int) -> tuple[tuple[int, ...], ...]:
    sets = tuple(tuple(int(row) for row in some) for some in without)
    if not sets:
        raise InvalidArgument.at("without", "name at least one set of training rows")
    for k, some in enumerate(sets):
        if not some:
            raise InvalidArgument.at(f"without[{k}]", "names no training row")
        wrong = next((row for row in some if not 0 <= row < n), None)
        if wrong is not None:
            text = f"there is no training row {wrong}; there are rows 0…{n - 1}"
            raise InvalidArgument.at(f"without[{k}]", text, Reason.ROW_OUT_OF_RANGE)
    return sets


def _changes(k: int, m: int, memory_bytes: int) -> NDArray[np.float64]:
    if 8 * k * m > memory_bytes:
        text = (
            f"the changes of {m:,} test rows without {k:,} sets of rows take {8 * k * m / 2**30:.1f} GiB, more than "
            f"the {memory_bytes / 2**30:.1f} GiB allowed: pass fewer test rows, or fewer sets at a time"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)
    return np.empty((k, m))


def _at_once(objective: Objective, train: HeadRows, test: HeadRows, memory_bytes: int) -> int:
    """Return how many fits fit into a byte budget, at least one."""
    C, own = objective.head.outputs, 16 * objective.space.dim

    def fitting(rows: int) -> int:
        return memory_bytes // (8 * (12 * C * max(rows, test.largest_block) + own) + len(train))

    # Kept for all rows, what a step computes of them serves all its products; but few fits at a time are slow.
    whole = fitting(len(train))
    return max(1, min(_MOST_AT_ONCE, whole if whole >= _FEW_AT_ONCE else fitting(train.largest_block)))


def _check_left(objectives: Removals, some: Sequence[Sequence[int]], first: int) -> None:
    empty = (objectives.weight() <= 0).nonzero()[:, 0].tolist()
    if empty:
        k = empty[0]
        text = f"{_named(some[k])} are all of the training data that has weight: nothing is left to fit"
        raise InvalidArgument.at(f"without[{first + k}]", text)


def _factorised(objectives: Removals, theta: Tensor) -> Preconditioner:
    """Return the inverse of the first objective's Hessian at Θ (d, C), or of one slightly lifted where it is singular.

    Only how fast a fit converges depends on it.
    """
    d, C = theta.shape
    H = objectives.dense(theta)
    # What L2 leaves free may hold directions without curvature, where rounding must not be magnified.
    free = objectives.l2.reshape(-1) == 0
    H.diagonal().add_(_LIFT * free * H.diagonal()[free].mean() if bool(free.any()) else 0)
    if not bool(torch.isfinite(H).all()):
        refuse_not_finite("the Hessian")
    factor, info = torch.linalg.cholesky_ex(H)
    lift = len(H) * torch.finfo(H.dtype).eps * max(float(torch.linalg.matrix_norm(H, 1)), torch.finfo(H.dtype).tiny)
    while int(info):
        H.diagonal().add_(lift)
        factor, info = torch.linalg.cholesky_ex(H)
        lift *= 10

    def solve(V: Tensor) -> Tensor:
        columns = V.permute(0, 2, 1).reshape(d * C, -1)
        return torch.cholesky_solve(columns, factor).view(d, C, -1).permute(0, 2, 1)

    return solve


def _costs(objective: Objective, tests: HeadRows, measurement: str, theta: Tensor) -> NDArray[np.float64]:
    """Return m_t, (K, m), of K heads Θ (d, K, C).

    Raises:
        FailedPrecondition: NON_FINITE_RESULT.
    """
    K, C = theta.shape[1:]
    parts = []
    for block in tests.blocks():
        f = block.outputs(theta).reshape(-1, C)
        y = None if block.targets is None else repeated(block.targets, K)
        costs = measure(measurement, objective.loss, f, y).view(-1, K)
        bad = ~torch.isfinite(costs).all(dim=1)
        if bool(bad.any()):
            row = int(block.index[int(bad.nonzero()[0, 0])])
            text = f"the {measurement} of test row {row} is not a finite number; check that row"
            raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"row": str(row)})
        parts.append(costs)
    return torch.cat(parts).T.to("cpu", torch.float64).numpy()


def _check_converged(found: Minima, first: int, some: Sequence[Sequence[int]] | None, newton: Newton) -> None:
    failed = next((k for k, status in enumerate(found.status) if status != CONVERGED), None)
    if failed is None:
        return
    norm, steps = float(found.gradient_norms[failed]), int(found.iterations[failed])
    metadata = {"gradient_norm": f"{norm:.6g}", "tolerance": f"{newton.tolerance:g}", "iterations": str(steps)}
    what = "the fit on all rows"
    if some is not None:
        what = f"the fit without {_named(some[failed])} (without[{first + failed}])"
        metadata["counterfactual"] = str(first + failed)
    text = (
        f"{what} did not converge: {found.status[failed]} (‖∇R‖ = {norm:.2g} after {steps} steps, tolerance "
        f"{newton.tolerance:.1g}); register the model with l2 > 0 on every selected parameter, which makes the minimum "
        "one and finite, or pass a larger tolerance or max_iterations"
    )
    raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata=metadata)


def _named(rows: Sequence[int]) -> str:
    if len(rows) == 1:
        return f"row {rows[0]}"
    listed = ", ".join(map(str, rows[:5]))
    return f"rows {listed}" + (f" and {len(rows) - 5:,} more" if len(rows) > 5 else "")
