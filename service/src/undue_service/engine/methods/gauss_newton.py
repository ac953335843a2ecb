"""`gauss_newton`: influence by the damped Gauss–Newton matrix, by whichever exact solve is the cheapest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT, METHODS
from undue_service.engine.curvature import Damped, Dense, GaussNewton
from undue_service.engine.damping import resolve_damping
from undue_service.engine.objective import Objective
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Cholesky
from undue_service.engine.solvers.cholesky import CholeskyState

from .base import (
    Columns,
    Factors,
    Method,
    Problem,
    Queries,
    ScoreBlock,
    SelfScores,
    check_settings,
    score_blocks,
    solved,
    solved_for_each_row,
)
from .dual import DEFAULT_ROWS, DualGaussNewton
from .exact import Exact
from .gauss_newton_cg import SINGLE_TOLERANCE, IterativeGaussNewton

_DENSE_OPERATIONS = 2**37
"""Multiplications for a dense matrix beyond which the largest rows alone are solved with: some seconds."""


@dataclass(frozen=True)
class GaussNewtonFactors(Factors):
    """The route that was taken, and its factors."""

    route: Method[Any]
    own: Any
    objective: Objective
    """In the precision of the route."""


class GaussNewtonInfluence:
    """score(i, t) = (w_i/n) ∇m_tᵀ (G + λI)⁻¹ ∇ℓ_i, with G the Gauss–Newton matrix, L2 included.

    A linear head has no other Hessian: there it is `exact`, leverage correction included. A network of few parameters
    has its matrix written down, in float64; any other is solved in sample space, with the largest rows alone where
    there are many. Where a tolerance or a number of iterations is asked for, the whole G is solved with, by conjugate
    gradients.
    """

    spec = METHODS["gauss_newton"]
    query_columns = 0

    def fit(self, problem: Problem) -> GaussNewtonFactors:
        """Take a route, and fit it.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for and the model is not a linear head.
            FailedPrecondition: HESSIAN_SINGULAR where λ + l2 is zero for some parameter and nothing makes up for it;
                NON_FINITE_RESULT.
        """
        check_settings(problem, self.spec)
        route = _route(problem)
        if problem.leverage_correction and not isinstance(route, Exact):
            text = (
                "the leverage correction needs a model whose outputs are linear in every selected parameter, and all "
                "rows: select only the last layer with parameters=, or leave leverage_correction and rank out"
            )
            raise InvalidArgument.at("leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)
        objective = problem.objective.in_double() if _doubles(route, problem) else problem.objective
        own = route.fit(replace(problem, objective=objective))
        return GaussNewtonFactors(
            own.damping,
            own.leverage_correction,
            own.solver,
            own.solver_status,
            route,
            own,
            objective,
            warnings=own.warnings,
            query_columns=own.query_columns,
            dtype=objective.program.dtype,
        )

    def query(self, factors: GaussNewtonFactors, problem: Problem, asked: Asked) -> Queries:
        """See Method."""
        return factors.route.query(factors.own, replace(problem, objective=factors.objective), asked)

    def score(self, factors: GaussNewtonFactors, queries: Queries, problem: Problem) -> Iterator[ScoreBlock]:
        """See Method."""
        return factors.route.score(factors.own, queries, replace(problem, objective=factors.objective))

    def self_score(self, factors: GaussNewtonFactors, problem: Problem) -> SelfScores:
        """See Method."""
        return factors.route.self_score(factors.own, replace(problem, objective=factors.objective))


@dataclass(frozen=True)
class DenseFactors(Factors):
    """The factorised matrix."""

    state: CholeskyState


class DenseGaussNewton:
    """The route that writes the matrix down: s_t = (G + λI)⁻¹ ∇m_t by Cholesky."""

    spec = METHODS["gauss_newton"]
    query_columns = 0
    _solver = Cholesky()

    def fit(self, problem: Problem) -> DenseFactors:
        """Make and factorise the damped matrix.

        Raises:
            FailedPrecondition: HESSIAN_SINGULAR, NON_FINITE_RESULT.
        """
        objective = problem.objective
        curvature = GaussNewton(objective, problem.train, memory_bytes=problem.memory_bytes, progress=problem.progress)
        dense = Dense(curvature.to_dense())
        damping = resolve_damping(problem.damping, objective, dense.mean_eigenvalue)
        state = self._solver.prepare(Damped(dense, damping.value))
        return DenseFactors(damping, False, self._solver.name, "converged", state)

    def query(self, factors: DenseFactors, problem: Problem, asked: Asked) -> Columns:
        """See Method."""
        return solved(self._solver.solve(factors.state, asked.columns(problem.objective)))

    def score(self, factors: DenseFactors, queries: Columns, problem: Problem) -> Iterator[ScoreBlock]:  # noqa: ARG002
        """See Method."""
        return score_blocks(problem, queries.values)

    def self_score(self, factors: DenseFactors, problem: Problem) -> SelfScores:
        """See Method."""
        return solved_for_each_row(partial(self._solver.solve, factors.state), problem)


def _doubles(route: Method[Any], problem: Problem) -> bool:
    """Return whether a route takes float64 whatever the objective is in: for a residual beyond float32, too."""
    if isinstance(route, IterativeGaussNewton):
        return problem.tolerance is not None and problem.tolerance < SINGLE_TOLERANCE
    return isinstance(route, Exact | DenseGaussNewton)


def _route(problem: Problem) -> Method[Any]:
    objective, P = problem.objective, problem.objective.space.dim
    if problem.tolerance is not None or problem.max_iterations is not None:
        return IterativeGaussNewton()
    if problem.rank is not None or P > DENSE_PARAMETER_LIMIT:
        return DualGaussNewton()
    if objective.head is not None:
        return Exact()
    if problem.damping == 0 and not bool((objective.l2 > 0).all()):
        return DenseGaussNewton()
    rows = len(problem.train) * objective.outputs_per_row
    dense = rows * P**2 + P**3 / 3
    kept = min(rows, DEFAULT_ROWS)
    dual = (
        kept**2 * objective.taps.row_numel / 2
        + kept**3 / 3
        + (len(problem.train) * kept + rows) * objective.taps.row_numel
    )
    exact_for_little = kept < rows and P <= DEFAULT_ROWS and dense <= _DENSE_OPERATIONS
    return DenseGaussNewton() if dense <= dual or exact_for_little else DualGaussNewton()
