"""The seam between what curves and what solves."""

from typing import Protocol

from torch import Tensor


class Curvature(Protocol):
    """A symmetric operator on the P selected parameters."""

    @property
    def dim(self) -> int:
        """Return P."""

    def matmat(self, V: Tensor) -> Tensor:
        """Return the product with columns V (P, K): (P, K)."""

    def to_dense(self) -> Tensor:
        """Return the matrix, (P, P); the caller does not change it."""
