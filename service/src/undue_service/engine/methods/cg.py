"""`cg`: influence by conjugate gradients on the damped Hessian (Koh & Liang 2017, section 3), without the matrix.

The scores, λ included, are those of `exact` without the leverage correction, which would need the inverse itself.
"""

from undue_service.domain.methods import METHODS
from undue_service.engine.curvature import Hessian
from undue_service.engine.solvers import DEFAULT_MAX_ITERATIONS, DEFAULT_TOLERANCE, ConjugateGradient

from .base import Problem
from .influence import Influence, Solved


def cg() -> Influence:
    """Return the method."""
    return Influence(METHODS["cg"], Hessian, _solver)


def _solver(problem: Problem, told: Solved) -> ConjugateGradient:
    return ConjugateGradient(
        DEFAULT_TOLERANCE if problem.tolerance is None else problem.tolerance,
        DEFAULT_MAX_ITERATIONS if problem.max_iterations is None else problem.max_iterations,
        told,
    )
