"""Symmetric operators on parameters: what a solver inverts."""

from .base import Curvature, MeanOfRows
from .damped import Damped, known_diagonal, undamped
from .dense import Dense
from .empirical_fisher import EmpiricalFisher
from .estimate import Estimate
from .gauss_newton import GaussNewton
from .hessian import Hessian
from .identity import Identity
from .trace import mean_eigenvalue

__all__ = [
    "Curvature",
    "Damped",
    "Dense",
    "EmpiricalFisher",
    "Estimate",
    "GaussNewton",
    "Hessian",
    "Identity",
    "MeanOfRows",
    "known_diagonal",
    "mean_eigenvalue",
    "undamped",
]
