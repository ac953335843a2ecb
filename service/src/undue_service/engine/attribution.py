"""Influence and self-influence from end to end: the two functions that a runner calls."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.methods import MethodSpec, self_influence_spec

from .data import Rows
from .diagnostics import EngineDiagnostics, begin
from .gradients import block_rows, training_batches
from .measurements import check_measurement
from .methods import Checkpoint, Factors, Method, Problem, ScoreBlock, averaged, find
from .objective import Objective
from .progress import Progress, silent
from .queries import RowFacts, asked_rows, each_asked, row_facts
from .solvers import Effort
from .topk import TopK

LISTED_WITH_MATRIX = 10
"""Rows a side that are listed where the whole matrix is asked for."""


@dataclass(frozen=True)
class Attribution:
    """Why the model said what it said of m test rows."""

    test: RowFacts
    """Of each row that was asked about; together they are one explanation where the costs are aggregated: m = 1."""
    helpful_rows: NDArray[np.int64]
    """(m, k) training rows of the largest positive scores, best first; −1 where there are fewer. k = min(top_k, n)."""
    helpful_scores: NDArray[np.float64]
    """(m, k); 0 where there are fewer."""
    harmful_rows: NDArray[np.int64]
    """(m, k) training rows of the most negative scores, worst first; −1 where there are fewer."""
    harmful_scores: NDArray[np.float64]
    """(m, k); 0 where there are fewer."""
    scores: NDArray[np.float32] | None
    """(m, n); only where they were asked for."""
    train: RowFacts
    """The training rows that are listed, in ascending order."""
    diagnostics: EngineDiagnostics
    aggregate: Literal["mean"] | None = None
    """How the costs of the test rows were made one."""


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
    aggregate: Literal["mean"] | None = None,
    rank: int | None = None,
    normalization: Literal["theta", "loss"] | None = None,
    seed: int = 0,
    checkpoints: Sequence[Checkpoint] = (),
    ensemble: bool = False,
    keep_scores: bool = False,
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
        tolerance: relative residual at which an iterative solver stops; None is the solver's own.
        max_iterations: iterations of one solve at most; None is the solver's own.
        aggregate: "mean" explains the mean of the rows' costs, with one right-hand side; None each row by itself.
        rank: what the method truncates to; None is its own.
        normalization: of `relatif`.
        seed: of whatever the method draws at random.
        checkpoints: the model at other weights, for methods and ensembles that use them.
        ensemble: whether the scores are averaged over the checkpoints.
        keep_scores: whether to return the whole matrix although lists of `top_k` rows were asked for.
        memory_bytes: budget of the intermediate values of a block, and of the whole matrix.
        progress: called between blocks.

    Raises:
        InvalidArgument: METHOD_UNKNOWN, ROW_OUT_OF_RANGE, INVALID_FIELD, INPUT_MISMATCH, TARGET_MISMATCH,
            TARGETS_MISSING, MODEL_UNSUPPORTED, LEVERAGE_UNAVAILABLE, WEIGHTS_MISMATCH.
        FailedPrecondition: CHECKPOINTS_MISSING, TOO_MANY_PARAMETERS, HESSIAN_SINGULAR, HESSIAN_NOT_POSITIVE_DEFINITE,
            SOLVER_NOT_CONVERGED, NON_FINITE_RESULT, LEVERAGE_UNAVAILABLE.
        ResourceExhausted: OUT_OF_MEMORY where the whole matrix would not fit.
    """
    started = time.perf_counter()
    chosen = averaged(find(method)) if ensemble else find(method)
    check_measurement(measurement, objective.loss)
    if aggregate not in (None, "mean"):
        raise InvalidArgument.at("aggregate", f'there is no aggregate {aggregate!r}; there is "mean"')
    wanted = asked_rows(rows, len(test))
    k = list_length(LISTED_WITH_MATRIX if top_k is None else top_k, len(train))
    whole = keep_scores or top_k is None
    matrix = _matrix(1 if aggregate else len(wanted), len(train), memory_bytes) if whole else None
    problem = Problem(
        objective,
        train,
        damping,
        leverage_correction,
        memory_bytes,
        progress,
        tolerance,
        max_iterations,
        rank,
        normalization,
        seed,
        tuple(checkpoints),
    )
    diagnosis = begin(problem)
    factors = chosen.fit(problem)
    facts: list[RowFacts] = []
    lists: list[tuple[Tensor, ...]] = []
    effort = Effort()
    start = 0
    columns = max(chosen.query_columns, factors.query_columns)
    for asked in each_asked(
        objective,
        test,
        wanted,
        measurement,
        mean=aggregate is not None,
        row_numel=columns * objective.space.dim + (2 * len(train) if ensemble else 0),
        memory_bytes=memory_bytes // 4,
        progress=progress,
    ):
        m = len(asked)
        facts.append(asked.facts(objective))
        queries = chosen.query(factors, problem, asked)
        effort += queries.effort
        helpful, harmful = (TopK(m, k, objective.program.device) for _ in range(2))
        for block in finite_blocks(chosen.score(factors, queries, problem)):
            helpful.update(block.index, block.scores)
            harmful.update(block.index, -block.scores)
            if matrix is not None:
                matrix[start : start + m, block.index.numpy()] = block.scores.to("cpu", torch.float32).numpy()
        lists.append((*helpful.result(), *harmful.result()))
        start += m
    helpful_rows, helpful_scores, harmful_rows, harmful_scores = (
        torch.cat(parts).cpu().numpy() for parts in zip(*lists, strict=True)
    )
    listed = np.unique(np.concatenate([helpful_rows.ravel(), harmful_rows.ravel()]))
    return Attribution(
        test=RowFacts.joined(facts),
        helpful_rows=helpful_rows,
        helpful_scores=helpful_scores,
        harmful_rows=harmful_rows,
        harmful_scores=-harmful_scores,
        scores=matrix,
        train=train_facts(problem, listed[listed >= 0]),
        diagnostics=diagnosis.finish(
            objective, of_mean(chosen.spec, len(wanted), aggregate), factors, effort, time.perf_counter() - started
        ),
        aggregate=aggregate,
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
    rank: int | None = None,
    normalization: Literal["theta", "loss"] | None = None,
    seed: int = 0,
    checkpoints: Sequence[Checkpoint] = (),
    ensemble: bool = False,
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
        rank: what the method truncates to; None is its own.
        normalization: of `relatif`.
        seed: of whatever the method draws at random.
        checkpoints: as in `influence`.
        ensemble: as in `influence`.
        memory_bytes: budget of the intermediate values of a block.
        progress: called between blocks.

    Raises:
        InvalidArgument: as `influence`; INVALID_FIELD for a method that ranks no row by itself.
        FailedPrecondition: as `influence`.
    """
    started = time.perf_counter()
    chosen = find(self_influence_spec(method).name)
    chosen = averaged(chosen) if ensemble else chosen
    k = list_length(len(train) if top_k is None else top_k, len(train))
    problem = Problem(
        objective,
        train,
        damping,
        leverage_correction,
        memory_bytes,
        progress,
        tolerance,
        max_iterations,
        rank,
        normalization,
        seed,
        tuple(checkpoints),
    )
    diagnosis = begin(problem)
    factors = chosen.fit(problem)
    scores, effort = _self_scores(chosen, factors, problem)
    order = torch.argsort(scores, descending=True, stable=True)[:k]
    return SelfAttribution(
        scores=scores[order].numpy(),
        train=train_facts(problem, order.numpy()),
        diagnostics=diagnosis.finish(objective, chosen.spec, factors, effort, time.perf_counter() - started),
    )


def _self_scores(method: Method[Any], factors: Factors, problem: Problem) -> tuple[Tensor, Effort]:
    scores = torch.empty(len(problem.train), dtype=torch.float64)
    total = Effort()
    for block, effort in method.self_score(factors, problem):
        _checkfinite_blocks(block)
        scores[block.index] = block.scores.to("cpu", torch.float64)
        total += effort
    return scores, total


def of_mean(spec: MethodSpec, m: int, aggregate: str | None) -> MethodSpec:
    """Return a method with what it estimates where the costs of m test rows are made one."""
    return replace(spec, estimand=f"{spec.estimand}; the cost is the mean over {m:,} test rows") if aggregate else spec


def list_length(top_k: int, rows: int) -> int:
    """Return how many rows a list has; raise InvalidArgument (INVALID_FIELD) where it should have none."""
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


def train_facts(problem: Problem, rows: NDArray[np.int64]) -> RowFacts:
    """Return what the model makes of some training rows."""
    if not len(rows):
        # No row has a score of its sign; the shapes and types still have to be right.
        facts = row_facts(problem.objective, next(training_batches(problem.objective, problem.train, 1, [0])))
        return RowFacts(facts.rows[:0], facts.predictions[:0], facts.targets[:0], facts.losses[:0])
    size = block_rows(problem.objective, problem.memory_bytes)
    batches = training_batches(problem.objective, problem.train, size, rows.tolist())
    return RowFacts.joined([row_facts(problem.objective, batch) for batch in batches])


def finite_blocks(found: Iterator[ScoreBlock]) -> Iterator[ScoreBlock]:
    """Yield blocks of scores; raise FailedPrecondition (NON_FINITE_RESULT) naming the row of one that is not finite."""
    for block in found:
        _checkfinite_blocks(block)
        yield block


def _checkfinite_blocks(block: ScoreBlock) -> None:
    if not bool(torch.isfinite(block.scores).all()):
        bad = ~torch.isfinite(block.scores.reshape(-1, len(block.index))).all(dim=0)
        row = int(block.index[int(bad.nonzero()[0, 0])])
        text = (
            f"the score of training row {row} is not a finite number; check that row, the test rows and the model's "
            "weights"
        )
        raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"row": str(row)})
