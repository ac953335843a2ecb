"""Influence by any curvature and any solver of it: what `cg`, `lissa` and `arnoldi` share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from undue_service.domain.methods import MethodSpec
from undue_service.engine.curvature import Curvature, Damped, Estimate
from undue_service.engine.damping import resolve_damping
from undue_service.engine.data import Rows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Solution, Solver

from .base import (
    Columns,
    Factors,
    Problem,
    ScoreBlock,
    SelfScores,
    check_settings,
    score_blocks,
    solved,
    solved_for_each_row,
)

COLUMNS = 8  # of length P that a right-hand side takes while it is solved

Solved = Callable[[int, int], None]
"""Told (columns solved, columns)."""


class Measured(Curvature, Protocol):
    """A curvature whose mean eigenvalue is known."""

    def mean_eigenvalue(self) -> Estimate:
        """Return trace / P."""


class MakesCurvature(Protocol):
    """The class of a curvature."""

    def __call__(
        self, objective: Objective, train: Rows, *, memory_bytes: int = ..., progress: Progress = ...
    ) -> Measured:
        """Bind an objective to its training data."""


@dataclass(frozen=True)
class InfluenceFactors(Factors):
    """What solves, and what it has prepared of the damped curvature."""

    solves: Solver[Any]
    state: Any


class Influence:
    """score(i, t) = (w_i/n) s_t · ∇ℓ_i with (A + λI) s_t = ∇m_t solved for each t, A the curvature."""

    query_columns = 4

    def __init__(
        self,
        spec: MethodSpec,
        curvature: MakesCurvature,
        solver: Callable[[Problem, Solved], Solver[Any]],
        status: Callable[[Any], str] = lambda _: "converged",
    ) -> None:
        """Bind a method's spec to its parts.

        Args:
            spec: what the method is.
            curvature: A.
            solver: makes what solves a problem.
            status: what a solver that approximates says of what it prepared; any other converges or raises.
        """
        self.spec = spec
        self._curvature = curvature
        self._solver = solver
        self._status = status

    def fit(self, problem: Problem) -> InfluenceFactors:
        """Resolve the damping and let the solver prepare; every product streams over the training rows.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for, INVALID_FIELD.
            FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE where the mean eigenvalue, of which the damping would be a
                tenth, is not positive; what the solver raises.
        """
        check_settings(problem, self.spec)
        told = Told(problem.progress)
        curvature = self._curvature(
            problem.objective, problem.train, memory_bytes=problem.memory_bytes, progress=told.block
        )
        damping = resolve_damping(problem.damping, problem.objective, curvature.mean_eigenvalue)
        solver = self._solver(problem, told.solved)
        told.solves = True
        state = solver.prepare(Damped(curvature, damping.value))
        return InfluenceFactors(
            damping=damping,
            leverage_correction=False,
            solver=solver.name,
            solver_status=self._status(state),
            solves=solver,
            state=state,
        )

    def query(self, factors: InfluenceFactors, problem: Problem, asked: Asked) -> Columns:
        """Return s_t = (A + λI)⁻¹ ∇m_t.

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED, HESSIAN_NOT_POSITIVE_DEFINITE, HESSIAN_SINGULAR,
                NON_FINITE_RESULT.
        """
        return solved(_solve(factors, asked.columns(problem.objective)))

    def score(
        self,
        factors: InfluenceFactors,  # noqa: ARG002 - the seam's signature
        queries: Columns,
        problem: Problem,
    ) -> Iterator[ScoreBlock]:
        """See Method."""
        return score_blocks(problem, queries.values)

    def self_score(self, factors: InfluenceFactors, problem: Problem) -> SelfScores:
        """See Method. Every training row is a right-hand side."""
        return solved_for_each_row(partial(_solve, factors), problem, COLUMNS * problem.objective.space.dim)


def _solve(factors: InfluenceFactors, gradients: Tensor) -> Solution:
    return factors.solves.solve(factors.state, gradients)


class Told:
    """Blocks of data as they are read; while columns are solved, how many are, again after every block.

    One product can take long, and a job can be cancelled whenever something is told.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = (0, 0)
        self.solves = False
        """Whether blocks are read to solve."""

    def solved(self, done: int, total: int) -> None:
        """Say how many columns are solved."""
        self._last = (done, total)
        self._progress("solve", done, total)

    def again(self, *_: object) -> None:
        """Say it once more."""
        self._progress("solve", *self._last)

    def block(self, stage: str, done: int, total: int) -> None:
        """Say how many rows are read, or once more how many columns are solved."""
        if self.solves:
            self.again()
        else:
            self._progress(stage, done, total)
