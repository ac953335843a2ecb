"""The empirical Fisher: second moments of the training gradients (Kunstner et al. 2019 say when it misleads)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .base import check_dense
from .estimate import Estimate
from .streaming import Stream


class EmpiricalFisher:
    """F = (1/n) Σ_i w_i ∇ℓ_i ∇ℓ_iᵀ + l2 · diag(mask), streamed over the data.

    It is no approximation of the Hessian: rows that the model fits have none of it, whatever they curve.
    """

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        *,
        select: Sequence[int] | None = None,
        memory_bytes: int = 2**30,
        parameter_limit: int = DENSE_PARAMETER_LIMIT,
        progress: Progress = silent,
    ) -> None:
        """Bind an objective to its training data; nothing is computed yet. Arguments as of `Hessian`."""
        self._objective = objective
        self._stream = Stream(objective, train, memory_bytes, progress, select)
        self._limit = parameter_limit

    @property
    def dim(self) -> int:
        """Return P."""
        return self._objective.space.dim

    @property
    def rows(self) -> int:
        """See MeanOfRows."""
        return len(self._stream)

    @property
    def diagonal(self) -> Tensor:
        """See MeanOfRows."""
        return self._objective.l2

    def of(self, rows: Sequence[int]) -> "EmpiricalFisher":
        """See MeanOfRows."""
        return EmpiricalFisher(self._objective, self._stream.train, select=rows, memory_bytes=self._stream.memory_bytes)

    def matmat(self, V: Tensor) -> Tensor:
        """Return F V, (P, K), from each row's gradient."""
        product = torch.zeros_like(V)
        for gradients, weighted in self._stream.made(self._gradients, 2 * self.dim + V.shape[1]):
            product.addmm_(weighted.T, gradients @ V)
        return product / self.rows + self._objective.l2[:, None] * V

    def to_dense(self) -> Tensor:
        """Return F, (P, P).

        Raises:
            FailedPrecondition: TOO_MANY_PARAMETERS where P exceeds the limit.
        """
        check_dense(self.dim, self._limit, "empirical Fisher")
        dense = self._objective.theta.new_zeros(self.dim, self.dim)
        for gradients, weighted in self._stream.made(self._gradients, 2 * self.dim):
            dense.addmm_(gradients.T, weighted)
        dense = (dense + dense.T) / (2 * self.rows)
        dense.diagonal().add_(self._objective.l2)
        return dense

    def mean_eigenvalue(self) -> Estimate:
        """Return trace(F)/P, exactly: the mean squared norm of a gradient."""
        total = sum(self._stream.made(self._squares))
        return Estimate((total / self.rows + float(self._objective.l2.sum())) / self.dim)

    def _gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ∇ℓ_i and w_i ∇ℓ_i, (B, P) each."""
        gradients = loss_gradients(self._objective, batch).dense()
        return gradients, gradients if batch.weights is None else gradients * batch.weights[:, None]

    def _squares(self, batch: Batch) -> float:
        """Return Σ_i w_i ‖∇ℓ_i‖²."""
        squares = loss_gradients(self._objective, batch).norms().square()
        return float(squares.sum() if batch.weights is None else batch.weights @ squares)
