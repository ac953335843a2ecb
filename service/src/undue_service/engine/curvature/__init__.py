"""Symmetric operators on parameters: what a solver inverts."""

from .base import Curvature
from .damped import Damped
from .dense import Dense
from .hessian import PARAMETER_LIMIT, Hessian

__all__ = ["PARAMETER_LIMIT", "Curvature", "Damped", "Dense", "Hessian"]
