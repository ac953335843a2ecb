"""Ways to solve (H + λI) s = v."""

from .base import Effort, Solution, Solver
from .cg import DEFAULT_MAX_ITERATIONS, DEFAULT_TOLERANCE, ConjugateGradient
from .cholesky import Cholesky

__all__ = [
    "DEFAULT_MAX_ITERATIONS",
    "DEFAULT_TOLERANCE",
    "Cholesky",
    "ConjugateGradient",
    "Effort",
    "Solution",
    "Solver",
]
