"""Damping: H + λI. λ belongs to what is estimated, never to a solver's scale."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Curvature, MeanOfRows


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


def undamped(curvature: Curvature) -> tuple[Curvature, float]:
    """Return a curvature without its damping, and λ."""
    if not isinstance(curvature, Damped):
        return curvature, 0.0
    inner, damping = undamped(curvature.curvature)
    return inner, damping + curvature.damping


def known_diagonal(curvature: Curvature) -> Tensor:
    """Return the part of a curvature that is known to be diagonal, l2 · mask + λ, as far as it says so: (P,)."""
    inner, damping = undamped(curvature)
    if isinstance(inner, MeanOfRows):
        return inner.diagonal + damping
    return torch.zeros_like(inner.to_dense().diagonal()) + damping
