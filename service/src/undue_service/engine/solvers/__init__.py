"""Ways to solve (H + λI) s = v."""

from .arnoldi import DEFAULT_RANK, Arnoldi
from .base import Effort, Solution, Solver
from .cg import DEFAULT_MAX_ITERATIONS, DEFAULT_TOLERANCE, ConjugateGradient
from .cholesky import Cholesky
from .lissa import LiSSA

__all__ = [
    "DEFAULT_MAX_ITERATIONS",
    "DEFAULT_RANK",
    "DEFAULT_TOLERANCE",
    "Arnoldi",
    "Cholesky",
    "ConjugateGradient",
    "Effort",
    "LiSSA",
    "Solution",
    "Solver",
]
