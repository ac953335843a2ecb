"""Gauss–Newton influence by conjugate gradients: the route of `gauss_newton` where a tolerance is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from undue_service.domain.methods import METHODS
from undue_service.engine.curvature import Damped, Estimate, GaussNewton
from undue_service.engine.curvature.root import gauss_newton_root
from undue_service.engine.damping import resolve_damping
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import DEFAULT_MAX_ITERATIONS, DEFAULT_TOLERANCE, ConjugateGradient, Solution
from undue_service.engine.solvers.dual import Dual, inverse_product

from .base import (
    Columns,
    Factors,
    Problem,
    ScoreBlock,
    SelfScores,
    score_blocks,
    solved,
    solved_for_each_row,
)
from .dual import DEFAULT_ROWS, most_rows
from .influence import COLUMNS, Told

SINGLE_TOLERANCE = 1e-4
"""Relative residual that float32 can be asked for."""
_TOLERANCES = {torch.float32: SINGLE_TOLERANCE, torch.float64: DEFAULT_TOLERANCE}


@dataclass(frozen=True)
class IterativeFactors(Factors):
    """The damped Gauss–Newton as an operator, and what solves with it."""

    curvature: Damped
    solves: ConjugateGradient


class IterativeGaussNewton:
    """(G + λI) s_t = ∇m_t with the whole G, by conjugate gradients preconditioned by its largest rows.

    The preconditioner is the dual solve with `rank` rows: exact in the directions that most of the trace lies in, so
    what is left to iterate over is curved by the others alone.
    """

    spec = METHODS["gauss_newton"]
    query_columns = COLUMNS

    def fit(self, problem: Problem) -> IterativeFactors:
        """Find the rows of the preconditioner; every product streams over the training rows.

        Raises:
            FailedPrecondition: HESSIAN_SINGULAR where λ + l2 is zero for some parameter; NON_FINITE_RESULT.
        """
        objective, memory = problem.objective, problem.memory_bytes // 2
        limit = min(problem.rank or DEFAULT_ROWS, most_rows(objective, memory))
        root = gauss_newton_root(objective, problem.train, limit, memory_bytes=memory, progress=problem.progress)
        damping = resolve_damping(problem.damping, objective, lambda: Estimate(root.mean_eigenvalue))
        state = Dual().prepare(Damped(root, damping.value))
        told = Told(problem.progress)
        streamed = GaussNewton(objective, problem.train, memory_bytes=memory, progress=told.again)
        solver = ConjugateGradient(
            problem.tolerance or _TOLERANCES.get(objective.program.dtype, 1e-2),
            problem.max_iterations or DEFAULT_MAX_ITERATIONS,
            told.solved,
            preconditioner=partial(inverse_product, state),
        )
        return IterativeFactors(
            damping=damping,
            leverage_correction=False,
            solver=f"{solver.name}, preconditioned by {root.kept:,} rows",
            solver_status="converged",
            query_columns=self.query_columns,
            curvature=Damped(streamed, damping.value),
            solves=solver,
        )

    def query(self, factors: IterativeFactors, problem: Problem, asked: Asked) -> Columns:
        """Return s_t = (G + λI)⁻¹ ∇m_t.

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED, NON_FINITE_RESULT.
        """
        return solved(_solve(factors, asked.columns(problem.objective)))

    def score(self, factors: IterativeFactors, queries: Columns, problem: Problem) -> Iterator[ScoreBlock]:  # noqa: ARG002
        """See Method."""
        return score_blocks(problem, queries.values)

    def self_score(self, factors: IterativeFactors, problem: Problem) -> SelfScores:
        """See Method. Every training row is a right-hand side."""
        return solved_for_each_row(partial(_solve, factors), problem, COLUMNS * problem.objective.space.dim)


def _solve(factors: IterativeFactors, gradients: Tensor) -> Solution:
    return factors.solves.solve(factors.solves.prepare(factors.curvature), gradients)
