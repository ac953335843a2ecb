"""Ways to solve (H + λI) s = v."""

from .base import Solution, Solver
from .cholesky import Cholesky

__all__ = ["Cholesky", "Solution", "Solver"]
