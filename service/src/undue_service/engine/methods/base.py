"""The seam of the attribution methods."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.methods import MethodSpec
from undue_service.engine.damping import Damping, check_damping
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import (
    GradientBlock,
    block_rows,
    each_block,
    head_gradients,
    loss_gradients,
)
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort, Solution


@dataclass(frozen=True)
class Checkpoint:
    """The model at other weights: of an earlier epoch, or of another seed."""

    parameters: Mapping[str, Tensor]
    """Of the whole program, by name."""
    learning_rate: float
    """η of the steps that it stands for."""


@dataclass(frozen=True)
class Problem:
    """An objective at its registered weights, its training data, and how to treat them."""

    objective: Objective
    train: Rows
    damping: float | None = None
    """λ; None lets the method resolve it."""
    leverage_correction: bool | None = None
    """None: on where the method has one and the model is a linear head."""
    memory_bytes: int = 2**30
    """Budget of the intermediate values of one block."""
    progress: Progress = silent
    tolerance: float | None = None
    """Relative residual at which an iterative solver stops; None is the solver's own."""
    max_iterations: int | None = None
    """Iterations of one solve at most; None is the solver's own limit."""
    rank: int | None = None
    """What the method truncates to; None is its own."""
    normalization: Literal["theta", "loss"] | None = None
    seed: int = 0
    """Of whatever the method draws at random."""
    checkpoints: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True)
class Factors:
    """What every method's preparation says of itself; each method keeps more."""

    damping: Damping
    leverage_correction: bool
    solver: str
    """Empty where nothing is solved."""
    solver_status: str
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    query_columns: int = field(default=0, kw_only=True)
    """Where it depends on the problem: as the method's, at least so many."""
    dtype: torch.dtype | None = field(default=None, kw_only=True)
    """In which the scores are computed, where it is not the objective's."""


@dataclass(frozen=True)
class Queries:
    """Test rows as a method scores with them; each method keeps more."""

    effort: Effort
    """What solving for them took."""


@dataclass(frozen=True)
class Columns(Queries):
    """Test rows as vectors over the parameters."""

    values: Tensor
    """s_t, (P, m)."""


F = TypeVar("F", bound=Factors)


@dataclass(frozen=True)
class ScoreBlock:
    """The scores of some training rows."""

    index: Tensor
    """Their numbers, (B,)."""
    scores: Tensor
    """(m, B) for m test rows; (B,) of each row for itself."""


SelfScores = Iterator[tuple[ScoreBlock, Effort]]


class Method(Protocol[F]):
    """A method: scores of training rows for test rows, positive where removing row i raises the cost of test row t."""

    spec: MethodSpec
    query_columns: int
    """Vectors over the parameters that one test row takes while it is worked on: 0 where it stays factored."""

    def fit(self, problem: Problem) -> F:
        """Prepare what no query changes."""

    def query(self, factors: F, problem: Problem, asked: Asked) -> Queries:
        """Return what the test rows asked about are scored with."""

    def score(self, factors: F, queries: Queries, problem: Problem) -> Iterator[ScoreBlock]:
        """Yield the scores of all training rows for the queries that `query` returned."""

    def self_score(self, factors: F, problem: Problem) -> SelfScores:
        """Yield the scores of all training rows for their own loss, and what solving for them took."""


def check_settings(problem: Problem, spec: MethodSpec) -> None:
    """Check what is asked of a method.

    Raises:
        InvalidArgument: INVALID_FIELD for a setting that cannot be, or that the method has not; LEVERAGE_UNAVAILABLE
            where the correction is asked of a method that has none.
    """
    check_damping(problem.damping)
    taken = {
        "tolerance": (spec.is_iterative, "does not iterate"),
        "max_iterations": (spec.is_iterative, "does not iterate"),
        "rank": (bool(spec.rank), "truncates nothing"),
        "normalization": (spec.has_normalization, "has one normalization only"),
    }
    for name, (is_taken, why) in taken.items():
        if getattr(problem, name) is not None and not is_taken:
            raise InvalidArgument.at(name, f"{spec.name} {why}: leave {name} out")
    if problem.rank is not None and problem.rank < 1:
        raise InvalidArgument.at("rank", f"is at least 1, not {problem.rank}")
    if problem.tolerance is not None and not 0 < problem.tolerance < 1:
        raise InvalidArgument.at(
            "tolerance", f"the relative residual to stop at lies between 0 and 1, not {problem.tolerance}"
        )
    if problem.max_iterations is not None and problem.max_iterations < 1:
        raise InvalidArgument.at("max_iterations", f"is at least 1, not {problem.max_iterations}")
    if problem.leverage_correction and not spec.has_leverage_correction:
        text = f'{spec.name} has no leverage correction; use method="exact", or leave leverage_correction out'
        raise InvalidArgument.at("leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)


def solved(solution: Solution) -> Columns:
    """Return what a solver found as queries."""
    return Columns(solution.effort, solution.value)


def score_blocks(problem: Problem, queries: Tensor, residuals: Tensor | None = None) -> Iterator[ScoreBlock]:
    """Yield (w_i/n) ∇ℓ_i · s_t for all training rows i and the columns s_t, (P, m).

    Args:
        problem: what is trained on.
        queries: s_t.
        residuals: (n, C) to use instead of a linear head's own.
    """
    objective, n = problem.objective, len(problem.train)
    size = block_rows(objective, problem.memory_bytes // 2, (objective.outputs_per_row + 2) * queries.shape[1])
    return streamed(
        problem,
        size,
        lambda batch: (train_gradients(objective, batch, residuals).dot(queries) * row_weights(batch, n)).T,
    )


def streamed(problem: Problem, size: int, work: Callable[[Batch], Tensor]) -> Iterator[ScoreBlock]:
    """Yield what `work` makes of each block of training rows, (m, B) or (B,), and tell how far it has come.

    Args:
        problem: what is trained on.
        size: rows of a block at most; where memory runs out it halves.
        work: makes scores of a placed batch.
    """
    done = 0
    for batch, scores in each_block(problem.objective, problem.train, size, work):
        yield ScoreBlock(batch.index, scores)
        done += len(batch.index)
        problem.progress("scores", done, len(problem.train))


def without_effort(blocks: Iterator[ScoreBlock]) -> SelfScores:
    """Yield scores for which nothing was solved."""
    return ((block, Effort()) for block in blocks)


def solved_for_each_row(solve: Callable[[Tensor], Solution], problem: Problem, row_numel: int = 0) -> SelfScores:
    """Yield (w_i/n) ∇ℓ_iᵀ s_i with s_i solved for ∇ℓ_i.

    Args:
        solve: columns ∇ℓ_i (P, B) → s_i (P, B).
        problem: what is trained on.
        row_numel: numbers that solving for one row takes.
    """
    objective, n = problem.objective, len(problem.train)
    done = 0
    size = block_rows(objective, problem.memory_bytes // 4, row_numel)

    def scored(batch: Batch) -> tuple[Tensor, Effort]:
        gradients = loss_gradients(objective, batch).dense()
        solution = solve(gradients.T)
        scores = (gradients * solution.value.T).sum(dim=1, keepdim=True) * row_weights(batch, n)
        return scores[:, 0], solution.effort

    for batch, (scores, effort) in each_block(objective, problem.train, size, scored):
        yield ScoreBlock(batch.index, scores), effort
        done += len(batch.index)
        problem.progress("scores", done, n)


def train_gradients(objective: Objective, batch: Batch, residuals: Tensor | None) -> GradientBlock:
    """Return ∇ℓ_i, with these residuals (n, C) in place of a linear head's own where given."""
    if residuals is None:
        return loss_gradients(objective, batch)
    features, _ = objective.head.evaluate(batch.inputs)
    return head_gradients(objective, features, residuals[batch.index.to(residuals.device)])


def row_weights(batch: Batch, n: int) -> Tensor | float:
    """Return w_i / n, (B, 1)."""
    return 1 / n if batch.weights is None else batch.weights[:, None] / n
