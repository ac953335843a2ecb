"""`lissa`: influence by products with few rows each (Agarwal et al. 2017; Koh & Liang 2017, section 3).

The curvature is Gauss–Newton's, which for a linear head is the Hessian: a network's Hessian has negative curvature
nearly always, and a stochastic recursion with it diverges.
"""

from undue_service.domain.methods import METHODS
from undue_service.engine.curvature import GaussNewton
from undue_service.engine.solvers import LiSSA, lissa

from .base import Problem
from .influence import Influence, Solved


def by_lissa() -> Influence:
    """Return the method."""
    return Influence(METHODS["lissa"], GaussNewton, _solver)


def _solver(problem: Problem, told: Solved) -> LiSSA:
    return LiSSA(
        lissa.DEFAULT_TOLERANCE if problem.tolerance is None else problem.tolerance,
        lissa.DEFAULT_MAX_ITERATIONS if problem.max_iterations is None else problem.max_iterations,
        problem.seed,
        told,
    )
