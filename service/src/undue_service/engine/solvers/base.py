"""The seam between a linear system and what solves it."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from undue_service.engine.curvature import Curvature

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solver found."""

    value: Tensor
    """s, (P, K)."""
    status: str
    """"converged", or in words why not."""
    residual: float
    """Largest ‖A s − v‖ / ‖v‖ over the columns, by a product of its own; 0 for a column v = 0."""
    matvecs: int
    """Products with the curvature, the one for the residual included."""


class Solver(Protocol[State]):
    """Solves A s = v for one curvature A and any number of right-hand sides."""

    name: str

    def prepare(self, curvature: Curvature) -> State:
        """Return what is computed once for a curvature."""

    def solve(self, state: State, rhs: Tensor) -> Solution:
        """Solve for the columns of `rhs`, (P, K)."""


def relative_residual(curvature: Curvature, value: Tensor, rhs: Tensor) -> float:
    """Return the largest ‖A s − v‖ / ‖v‖ over the columns; 0 for a column v = 0."""
    norms = rhs.norm(dim=0)
    residuals = (curvature.matmat(value) - rhs).norm(dim=0)
    return float((residuals / norms.where(norms > 0, 1)).max()) if rhs.shape[1] else 0.0
