"""The Hessian of the objective over the selected parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.engine.data import Batch, Rows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .base import check_dense
from .estimate import Estimate
from .head import HeadCurvature
from .streaming import Stream
from .trace import mean_eigenvalue


class Hessian:
    """H = (1/n) Σ_i w_i ∇²ℓ_i(θ̂) + l2 · diag(mask), streamed over the data.

    Products are forward over reverse (Pearlmutter 1994), all columns at once, for any program; a linear head's are
    closed.
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
        """Bind an objective to its training data; nothing is computed yet.

        Args:
            objective: at its registered weights.
            train: the n rows.
            select: row numbers, where the mean is over some of them; None means all.
            memory_bytes: budget of the intermediate values of one block.
            parameter_limit: the largest P of a dense form.
            progress: told after each block.
        """
        self._objective = objective
        self._stream = Stream(objective, train, memory_bytes, progress, select)
        self._limit = parameter_limit
        self._head: HeadCurvature | None = None
        if objective.head is not None:
            self._head = HeadCurvature(objective, train, select=select, memory_bytes=memory_bytes, progress=progress)

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

    def of(self, rows: Sequence[int]) -> "Hessian | HeadCurvature":
        """See MeanOfRows."""
        if self._head is not None:
            return self._head.of(rows)
        return Hessian(self._objective, self._stream.train, select=rows, memory_bytes=self._stream.memory_bytes)

    def matmat(self, V: Tensor) -> Tensor:
        """Return H V, (P, K), reading the data once for as many columns as fit into memory."""
        if self._head is not None:
            return self._head.matmat(V)
        return self._stream.mean_product(V, self._block_product)

    def to_dense(self) -> Tensor:
        """Return H, (P, P).

        Raises:
            FailedPrecondition: TOO_MANY_PARAMETERS where P exceeds the limit.
        """
        check_dense(self.dim, self._limit, "Hessian")
        if self._head is not None:
            return self._head.to_dense()
        theta = self._objective.theta
        dense = self.matmat(torch.eye(self.dim, dtype=theta.dtype, device=theta.device))
        return (dense + dense.T) / 2

    def mean_eigenvalue(self) -> Estimate:
        """Return trace(H)/P: exactly for a linear head, else as `trace.mean_eigenvalue` does."""
        if self._head is not None:
            return self._head.mean_eigenvalue()
        return mean_eigenvalue(self, self._objective.theta)

    def _block_product(self, batch: Batch, V: Tensor) -> Tensor:
        def total(theta: Tensor) -> Tensor:
            losses = self._objective.losses(theta, batch)
            return losses.sum() if batch.weights is None else batch.weights @ losses

        def product(v: Tensor) -> Tensor:
            return jvp(grad(total), (self._objective.theta,), (v,))[1]

        return vmap(product, in_dims=1, out_dims=1)(V)
