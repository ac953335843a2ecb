"""The identity, with which influence is the inner product of gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .estimate import Estimate


@dataclass(frozen=True)
class Identity:
    """I over P parameters."""

    like: Tensor
    """θ, or any other tensor of its length, dtype and device."""

    @property
    def dim(self) -> int:
        """Return P."""
        return self.like.numel()

    def matmat(self, V: Tensor) -> Tensor:
        """See Curvature."""
        return V

    def to_dense(self) -> Tensor:
        """See Curvature."""
        return torch.eye(self.dim, dtype=self.like.dtype, device=self.like.device)

    def mean_eigenvalue(self) -> Estimate:
        """Return 1."""
        return Estimate(1.0)
