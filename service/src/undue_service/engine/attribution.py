"""Influence and self-influence from end to end: the two functions that a runner calls."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.methods import self_influence_spec

from .data import Rows
from .diagnostics import EngineDiagnostics, begin
from .gradients import block_rows, measurement_gradients, training_batches
from .measurements import check_measurement
from .methods import Factors, Method, Problem, ScoreBlock, find
from .objective import Objective
from .progress import Progress, silent
from .solvers import Effort
from .topk import TopK

LISTED_WITH_MATRIX = 10
"""Rows a side that are listed where the whole matrix is asked for."""


@dataclass(frozen=True)
class RowFacts:
    """What the model makes of some rows."""

    rows: NDArray[np.int64]
    """(r,) row numbers."""
    predictions: NDArray[Any]
    """Class (r,) int64; or number (r,), or numbers (r, C), float64."""
    targets: NDArray[Any]
    """Likewise. Without targets it is what is explained: the predicted class, or the prediction."""
    losses: NDArray[np.float64]
    """(r,)."""


@dataclass(frozen=True)
class Attribution:
    """Why the model said what it said of m test rows."""

    test: RowFacts
    helpful_rows: NDArray[np.int64]
    """(m, k) training rows of the largest positive scores, best first; −1 where there are fewer. k = min(top_k, n)."""
    helpful_scores: NDArray[np.float64]
    """(m, k); 0 where there are fewer."""
    harmful_rows: NDArray[np.int64]
    """(m, k) training rows of the most negative scores, worst first; −1 where there are fewer."""
    harmful_scores: NDArray[np.float64]
    """(m, k); 0 where there are fewer."""
    scores: NDArray[np.float32] | None
    """(m, n); only where top_k is None."""
    train: RowFacts
    """The training rows that are listed, in ascending order."""
    diagnostics: EngineDiagnostics


@dataclass(frozen=True)
class SelfAttribution:
    """Training rows by their influence on their own loss."""

    scores: NDArray[np.float64]
    """(k,), descending; ties by the smaller row number."""
    train: RowFacts
    """The same rows in the same order."""
    diagnostics: EngineDiagnostics


def influence(
    objective: Objective,
    train: Rows,
    test: Rows,
    *,
    rows: Sequence[int] | None = None,
    method: str = "exact",
    measurement: str = "loss",
    damping: float | None = None,
    top_k: int | None = 10,
    leverage_correction: bool | None = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Attribution:
    """Score every training row for test rows; positive means that removing the training row raises the test row's cost.

    Args:
        objective: a model at its trained weights, with its loss and its parameters; in float64 for scores to be exact.
        train: the n rows that it was trained on.
        test: what is explained.
        rows: row numbers of `test`; None means all.
        method: name of the method.
        measurement: the cost of a test row: "loss", "logit" or "margin".
        damping: λ added to the Hessian's diagonal; None resolves to one reported number.
        top_k: how many training rows to list a side; None lists 10 and returns the whole matrix too.
        leverage_correction: None: on where the method has one and the model is a linear head.
        tolerance: relative residual at which an iterative solver stops; None is 1e-8.
        max_iterations: iterations of one solve at most; None is 1000.
        memory_bytes: budget of the intermediate values of a block, and of the whole matrix.
        progress: called between blocks.

    Raises:
        InvalidArgument: METHOD_UNKNOWN, ROW_OUT_OF_RANGE, INVALID_FIELD, INPUT_MISMATCH, TARGET_MISMATCH,
            TARGETS_MISSING, MODEL_UNSUPPORTED, LEVERAGE_UNAVAILABLE.
        FailedPrecondition: TOO_MANY_PARAMETERS, HESSIAN_SINGULAR, HESSIAN_NOT_POSITIVE_DEFINITE, SOLVER_NOT_CONVERGED,
            NON_FINITE_RESULT, LEVERAGE_UNAVAILABLE.
        ResourceExhausted: OUT_OF_MEMORY where the whole matrix would not fit.
    """
    started = time.perf_counter()
    chosen = find(method)
    check_measurement(measurement, objective.loss)
    wanted = _test_rows(rows, len(test))
    k = _list_length(LISTED_WITH_MATRIX if top_k is None else top_k, len(train))
    matrix = _matrix(len(wanted), len(train), memory_bytes) if top_k is None else None
    problem = Problem(objective, train, damping, leverage_correction, memory_bytes, progress, tolerance, max_iterations)
    diagnosis = begin(problem)
    factors = chosen.fit(problem)
    facts: list[RowFacts] = []
    lists: list[tuple[Tensor, ...]] = []
    effort = Effort()
    size = min(block_rows(objective, memory_bytes // 4, objective.space.dim * 4), 1024)
    for start in range(0, len(wanted), size):
        part = wanted[start : start + size]
        gradients, known = _queries(objective, test, part, measurement)
        facts.append(known)
        solution = chosen.precondition(factors, gradients)
        effort += solution.effort
        helpful, harmful = (TopK(len(part), k, objective.program.device) for _ in range(2))
        for block in _finite(chosen.score(factors, solution.value, problem)):
            helpful.update(block.index, block.scores)
            harmful.update(block.index, -block.scores)
            if matrix is not None:
                matrix[start : start + len(part), block.index.numpy()] = block.scores.to("cpu", torch.float32).numpy()
        lists.append((*helpful.result(), *harmful.result()))
    helpful_rows, helpful_scores, harmful_rows, harmful_scores = (
        torch.cat(parts).cpu().numpy() for parts in zip(*lists, strict=True)
    )
    listed = np.unique(np.concatenate([helpful_rows.ravel(), harmful_rows.ravel()]))
    return Attribution(
        test=_joined(facts),
        helpful_rows=helpful_rows,
        helpful_scores=helpful_scores,
        harmful_rows=harmful_rows,
        harmful_scores=-harmful_scores,
        scores=matrix,
        train=_train_facts(problem, listed[listed >= 0]),
        diagnostics=diagnosis.finish(objective, chosen.spec, factors, effort, time.perf_counter() - started),
    )


def self_influence(
    objective: Objective,
    train: Rows,
    *,
    method: str = "exact",
    damping: float | None = None,
    top_k: int | None = None,
    leverage_correction: bool | None = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> SelfAttribution:
    """Rank training rows by the score of each for its own loss: what its removal does to it.

    Args:
        objective: as in `influence`.
        train: the n rows that the model was trained on.
        method: name of the method.
        damping: as in `influence`.
        top_k: how many rows to keep; None keeps all.
        leverage_correction: as in `influence`.
        tolerance: as in `influence`.
        max_iterations: as in `influence`.
        memory_bytes: budget of the intermediate values of a block.
        progress: called between blocks.

    Raises:
        InvalidArgument: as `influence`; INVALID_FIELD for a method that ranks no row by itself.
        FailedPrecondition: as `influence`.
    """
    started = time.perf_counter()
    chosen = find(self_influence_spec(method).name)
    k = _list_length(len(train) if top_k is None else top_k, len(train))
    problem = Problem(objective, train, damping, leverage_correction, memory_bytes, progress, tolerance, max_iterations)
    diagnosis = begin(problem)
    factors = chosen.fit(problem)
    scores, effort = _self_scores(chosen, factors, problem)
    order = torch.argsort(scores, descending=True, stable=True)[:k]
    return SelfAttribution(
        scores=scores[order].numpy(),
        train=_train_facts(problem, order.numpy()),
        diagnostics=diagnosis.finish(objective, chosen.spec, factors, effort, time.perf_counter() - started),
    )


def _self_scores(method: Method[Any], factors: Factors, problem: Problem) -> tuple[Tensor, Effort]:
    scores = torch.empty(len(problem.train), dtype=torch.float64)
    total = Effort()
    for block, effort in method.self_score(factors, problem):
        _check_finite(block)
        scores[block.index] = block.scores.to("cpu", torch.float64)
        total += effort
    return scores, total


def _test_rows(rows: Sequence[int] | None, length: int) -> list[int]:
    wanted = list(range(length)) if rows is None else [int(row) for row in rows]
    if not wanted:
        raise InvalidArgument.at("rows", "name at least one test row, or leave rows out for all")
    wrong = next((row for row in wanted if not 0 <= row < length), None)
    if wrong is not None:
        raise InvalidArgument.at(
            "rows", f"there is no test row {wrong}; there are rows 0…{length - 1}", Reason.ROW_OUT_OF_RANGE
        )
    return wanted


def _list_length(top_k: int, rows: int) -> int:
    if top_k < 1:
        raise InvalidArgument.at("top_k", f"top_k is at least 1, not {top_k}; leave it out for all scores")
    return min(top_k, rows)


def _matrix(m: int, n: int, memory_bytes: int) -> NDArray[np.float32]:
    if 4 * m * n > memory_bytes:
        takes, allowed = 4 * m * n / 2**30, memory_bytes / 2**30
        text = (
            f"the whole matrix of {m:,} × {n:,} scores takes {takes:.1f} GiB, more than the {allowed:.1f} GiB allowed: "
            "pass top_k, or fewer rows at a time"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)
    return np.empty((m, n), dtype=np.float32)


def _queries(objective: Objective, test: Rows, rows: Sequence[int], measurement: str) -> tuple[Tensor, RowFacts]:
    """Return ∇m_t of test rows as columns, (P, m), and what the model makes of them."""
    gradients, facts = [], []
    for raw in test.batches(len(rows), rows):
        placed = objective.place(raw)
        batch = objective.explained(placed)
        gradients.append(measurement_gradients(objective, batch, measurement).dense())
        facts.append(_facts(objective, replace(batch, index=placed.index)))
    return torch.cat(gradients).T, _joined(facts)


def _train_facts(problem: Problem, rows: NDArray[np.int64]) -> RowFacts:
    if not len(rows):
        # No row has a score of its sign; the shapes and types still have to be right.
        first = next(training_batches(problem.objective, problem.train, 1, [0]))
        facts = _facts(problem.objective, first)
        return RowFacts(facts.rows[:0], facts.predictions[:0], facts.targets[:0], facts.losses[:0])
    size = block_rows(problem.objective, problem.memory_bytes)
    return _joined(
        [
            _facts(problem.objective, batch)
            for batch in training_batches(problem.objective, problem.train, size, rows.tolist())
        ]
    )


def _facts(objective: Objective, batch: Any) -> RowFacts:
    f = objective.outputs(objective.theta, batch.inputs)
    predictions = objective.loss.predictions(f)
    targets = predictions if batch.targets is None else batch.targets
    losses = torch.zeros(len(f)) if batch.targets is None else objective.loss.losses(f, targets)
    return RowFacts(
        batch.index.numpy(), _values(predictions), _values(targets), losses.to("cpu", torch.float64).numpy()
    )


def _values(values: Tensor) -> NDArray[Any]:
    flat = values[:, 0] if values.dim() == 2 and values.shape[1] == 1 else values
    return flat.to("cpu", torch.float64 if flat.is_floating_point() else torch.int64).numpy()


def _joined(parts: Sequence[RowFacts]) -> RowFacts:
    return RowFacts(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("rows", "predictions", "targets", "losses")
        )
    )


def _finite(found: Iterator[ScoreBlock]) -> Iterator[ScoreBlock]:
    for block in found:
        _check_finite(block)
        yield block


def _check_finite(block: ScoreBlock) -> None:
    if not bool(torch.isfinite(block.scores).all()):
        bad = ~torch.isfinite(block.scores.reshape(-1, len(block.index))).all(dim=0)
        row = int(block.index[int(bad.nonzero()[0, 0])])
        text = (
            f"the score of training row {row} is not a finite number; check that row, the test rows and the model's "
            "weights"
        )
        raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"row": str(row)})
