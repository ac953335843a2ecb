"""A curvature that is already a matrix."""

from dataclasses import dataclass

from torch import Tensor

from .estimate import Estimate


@dataclass(frozen=True)
class Dense:
    """A symmetric matrix as an operator."""

    matrix: Tensor
    """(P, P)."""

    @property
    def dim(self) -> int:
        """Return P."""
        return self.matrix.shape[0]

    def matmat(self, V: Tensor) -> Tensor:
        """See Curvature."""
        return self.matrix @ V

    def to_dense(self) -> Tensor:
        """See Curvature."""
        return self.matrix

    def mean_eigenvalue(self) -> Estimate:
        """Return trace / P."""
        return Estimate(float(self.matrix.diagonal().mean()))
