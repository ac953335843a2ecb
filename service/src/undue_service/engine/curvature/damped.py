"""Damping: H + λI. λ belongs to what is estimated, never to a solver's scale."""

from dataclasses import dataclass

from torch import Tensor

from .base import Curvature


@dataclass(frozen=True)
class Damped:
    """A curvature plus λ times the identity."""

    curvature: Curvature
    damping: float
    """λ ≥ 0."""

    @property
    def dim(self) -> int:
        """Return P."""
        return self.curvature.dim

    def matmat(self, V: Tensor) -> Tensor:
        """See Curvature."""
        return self.curvature.matmat(V) + self.damping * V

    def to_dense(self) -> Tensor:
        """See Curvature."""
        if self.damping == 0:
            return self.curvature.to_dense()
        dense = self.curvature.to_dense().clone()
        dense.diagonal().add_(self.damping)
        return dense
