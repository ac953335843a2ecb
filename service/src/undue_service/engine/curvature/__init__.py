"""Symmetric operators on parameters: what a solver inverts."""

from .base import Curvature
from .damped import Damped
from .dense import Dense
from .hessian import Hessian
from .trace import Estimate, mean_eigenvalue

__all__ = ["Curvature", "Damped", "Dense", "Estimate", "Hessian", "mean_eigenvalue"]
