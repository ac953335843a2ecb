"""The seam between a linear system and what solves it."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from undue_service.engine.curvature import Curvature

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Effort:
    """What solving took, and how far it got."""

    residual: float = 0.0
    """Largest relative residual."""
    matvecs: int = 0
    """Products of the curvature with one vector."""

    def __add__(self, other: "Effort") -> "Effort":
        return Effort(max(self.residual, other.residual), self.matvecs + other.matvecs)


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solver found."""

    value: Tensor
    """s, (P, K)."""
    status: str
    """"converged", or in words why not."""
    residuals: Tensor
    """‖A s − v‖ / ‖v‖ of each column, (K,), by a product of its own; 0 for a column v = 0."""
    matvecs: int
    """Products with the curvature, the one for the residual included."""

    @property
    def residual(self) -> float:
        """Return the largest residual."""
        return float(self.residuals.max()) if len(self.residuals) else 0.0

    @property
    def effort(self) -> Effort:
        """Return what it took."""
        return Effort(self.residual, self.matvecs)


class Solver(Protocol[State]):
    """Solves A s = v for one curvature A and any number of right-hand sides."""

    name: str

    def prepare(self, curvature: Curvature) -> State:
        """Return what is computed once for a curvature."""

    def solve(self, state: State, rhs: Tensor) -> Solution:
        """Solve for the columns of `rhs`, (P, K)."""


def relative_residuals(curvature: Curvature, value: Tensor, rhs: Tensor) -> Tensor:
    """Return ‖A s − v‖ / ‖v‖ of each column, (K,); 0 for a column v = 0."""
    norms = rhs.norm(dim=0)
    return (curvature.matmat(value) - rhs).norm(dim=0) / norms.where(norms > 0, 1)
