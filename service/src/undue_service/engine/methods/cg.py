"""`cg`: influence by conjugate gradients on the damped Hessian (Koh & Liang 2017, section 3), without the matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from undue_service.domain.methods import METHODS
from undue_service.engine.curvature import Damped, Hessian
from undue_service.engine.damping import resolve_damping
from undue_service.engine.progress import Progress
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import DEFAULT_MAX_ITERATIONS, DEFAULT_TOLERANCE, ConjugateGradient, Solution

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


@dataclass(frozen=True)
class CGFactors(Factors):
    """The damped Hessian as an operator, and what solves with it."""

    curvature: Damped
    solves: ConjugateGradient


class CG:
    """score(i, t) = (w_i/n) s_t · ∇ℓ_i with (H + λI) s_t = ∇m_t solved to a relative residual for each t.

    The scores, λ included, are those of `exact` without the leverage correction, which would need the inverse itself.
    """

    spec = METHODS["cg"]
    query_columns = 4

    def fit(self, problem: Problem) -> CGFactors:
        """Resolve the damping; every product streams over the training rows.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for, INVALID_FIELD.
            FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE where the mean eigenvalue, of which the damping would be a
                tenth, is not positive.
        """
        check_settings(problem, self.spec)
        objective = problem.objective
        hessian = Hessian(objective, problem.train, memory_bytes=problem.memory_bytes, progress=problem.progress)
        damping = resolve_damping(problem.damping, objective, hessian.mean_eigenvalue)
        told = Told(problem.progress)
        streamed = Hessian(objective, problem.train, memory_bytes=problem.memory_bytes, progress=told.again)
        solver = ConjugateGradient(
            DEFAULT_TOLERANCE if problem.tolerance is None else problem.tolerance,
            DEFAULT_MAX_ITERATIONS if problem.max_iterations is None else problem.max_iterations,
            told.solved,
        )
        return CGFactors(
            damping=damping,
            leverage_correction=False,
            solver=solver.name,
            solver_status="converged",
            curvature=Damped(streamed, damping.value),
            solves=solver,
        )

    def query(self, factors: CGFactors, problem: Problem, asked: Asked) -> Columns:
        """Return s_t = (H + λI)⁻¹ ∇m_t.

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED, HESSIAN_NOT_POSITIVE_DEFINITE, HESSIAN_SINGULAR,
                NON_FINITE_RESULT.
        """
        return solved(_solve(factors, asked.columns(problem.objective)))

    def score(self, factors: CGFactors, queries: Columns, problem: Problem) -> Iterator[ScoreBlock]:  # noqa: ARG002
        """See Method."""
        return score_blocks(problem, queries.values)

    def self_score(self, factors: CGFactors, problem: Problem) -> SelfScores:
        """See Method. Every training row is a right-hand side."""
        return solved_for_each_row(partial(_solve, factors), problem, COLUMNS * problem.objective.space.dim)


def _solve(factors: CGFactors, gradients: Tensor) -> Solution:
    return factors.solves.solve(factors.solves.prepare(factors.curvature), gradients)


class Told:
    """How many columns are solved, said again after every block of data: one product can take long."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = (0, 0)

    def solved(self, done: int, total: int) -> None:
        """Say how many columns are solved."""
        self._last = (done, total)
        self._progress("solve", done, total)

    def again(self, *_: object) -> None:
        """Say it once more."""
        self._progress("solve", *self._last)
