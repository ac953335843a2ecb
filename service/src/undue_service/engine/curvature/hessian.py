"""The Hessian of the objective over the selected parameters."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, training_batches
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .trace import Estimate, mean_eigenvalue


class Hessian:
    """H = (1/n) Σ_i w_i ∇²ℓ_i(θ̂) + l2 · diag(mask), streamed over the data.

    Products are forward over reverse (Pearlmutter 1994), all columns at once, for any program. A linear head's are
    closed: the block of outputs c, c' is (1/n) Σ_i w_i Σ_i[c, c'] x̃_i x̃_iᵀ.
    """

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        *,
        memory_bytes: int = 2**30,
        parameter_limit: int = DENSE_PARAMETER_LIMIT,
        progress: Progress = silent,
    ) -> None:
        """Bind an objective to its training data; nothing is computed yet.

        Args:
            objective: at its registered weights.
            train: the n rows.
            memory_bytes: budget of the intermediate values of one block.
            parameter_limit: the largest P of a dense form.
            progress: told after each block.
        """
        self._objective = objective
        self._train = train
        self._memory = memory_bytes
        self._limit = parameter_limit
        self._progress = progress

    @property
    def dim(self) -> int:
        """Return P."""
        return self._objective.space.dim

    def matmat(self, V: Tensor) -> Tensor:
        """Return H V, (P, K), reading the data once for as many columns as fit into memory."""
        if self._objective.head is not None:
            return self._head_product(V)
        columns = V.shape[1]
        rows, chunk = self._chunks(columns)
        parts = []
        for start in range(0, columns, chunk):
            part = V[:, start : start + chunk]
            product = self._objective.l2[:, None] * part
            done = 0
            for batch in training_batches(self._objective, self._train, rows):
                product = product + self._block_product(batch, part) / len(self._train)
                done += len(batch.index)
                covered = start * len(self._train) + done * part.shape[1]
                self._progress("curvature", covered // columns, len(self._train))
            parts.append(product)
        return torch.cat(parts, dim=1)

    def to_dense(self) -> Tensor:
        """Return H, (P, P).

        Raises:
            FailedPrecondition: TOO_MANY_PARAMETERS where P exceeds the limit.
        """
        if self.dim > self._limit:
            text = (
                f"a dense Hessian over {self.dim:,} parameters would take {self.dim**2 * 8 / 2**30:,.1f} GiB; the "
                f"limit is {self._limit:,} parameters: select fewer with parameters=, such as the last layer's, or use "
                'method="cg"'
            )
            metadata = {"parameters": str(self.dim), "limit": str(self._limit)}
            raise FailedPrecondition(Reason.TOO_MANY_PARAMETERS, text, metadata=metadata)
        if self._objective.head is not None:
            return self._head_dense()
        theta = self._objective.theta
        dense = self.matmat(torch.eye(self.dim, dtype=theta.dtype, device=theta.device))
        return (dense + dense.T) / 2

    def mean_eigenvalue(self) -> Estimate:
        """Return trace(H)/P: exactly for a linear head, else as `trace.mean_eigenvalue` does."""
        if self._objective.head is None:
            return mean_eigenvalue(self, self._objective.theta)
        total = 0.0
        done = 0
        for batch in training_batches(self._objective, self._train, block_rows(self._objective, self._memory)):
            x, S = self._head_factors(batch)
            total += float((S.diagonal(dim1=1, dim2=2).sum(dim=1) * x.square().sum(dim=1)).sum())
            done += len(batch.index)
            self._progress("curvature", done, len(self._train))
        return Estimate((total + float(self._objective.l2.sum())) / self.dim)

    def _block_product(self, batch: Batch, V: Tensor) -> Tensor:
        def total(theta: Tensor) -> Tensor:
            losses = self._objective.losses(theta, batch)
            return losses.sum() if batch.weights is None else batch.weights @ losses

        def product(v: Tensor) -> Tensor:
            return jvp(grad(total), (self._objective.theta,), (v,))[1]

        return vmap(product, in_dims=1, out_dims=1)(V)

    def _chunks(self, columns: int) -> tuple[int, int]:
        """Return how many rows and how many columns a block has."""
        rows = min(block_rows(self._objective, self._memory // 8), len(self._train))
        numel = 8 * rows * self._objective.program.graph.row_numel() + 4 * self.dim
        return rows, max(1, min(columns, self._memory // (8 * numel)))

    def _head_factors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return x̃ (B, d) and (w_i/n) Σ_i (B, C, C)."""
        x, f = self._objective.head.evaluate(batch.inputs)
        S = self._objective.loss.curvature(f) / len(self._train)
        return x, S if batch.weights is None else S * batch.weights[:, None, None]

    def _head_product(self, V: Tensor) -> Tensor:
        """Return Σ_i (w_i/n) (Σ_i ⊗ x̃_i x̃_iᵀ) V + l2 V: two matrix products a block."""
        head, n, K = self._objective.head, len(self._train), V.shape[1]
        C, d = head.outputs, head.features
        flat = head.from_theta(V).transpose(0, 1).reshape(d, C * K)
        product = torch.zeros_like(flat)
        done = 0
        rows = block_rows(self._objective, self._memory // 2, 2 * C * K + 3 * C * C)
        for batch in training_batches(self._objective, self._train, rows):
            x, S = self._head_factors(batch)
            product += x.T @ torch.bmm(S, (x @ flat).view(len(x), C, K)).view(len(x), C * K)
            done += len(batch.index)
            self._progress("curvature", done, n)
        return head.to_theta(product.view(d, C, K).transpose(0, 1)) + self._objective.l2[:, None] * V

    def _head_dense(self) -> Tensor:
        head, n = self._objective.head, len(self._train)
        C, d = head.outputs, head.features
        rows = block_rows(self._objective, self._memory // 2, 2 * C * d + 3 * C * C)

        def factors() -> Iterator[tuple[Tensor, Tensor]]:
            done = 0
            for batch in training_batches(self._objective, self._train, rows):
                yield self._head_factors(batch)
                done += len(batch.index)
                self._progress("curvature", done, n)

        flat = head_blocks(factors(), self._objective.theta.new_zeros(C, d, C, d)).view(self.dim, self.dim)
        order = torch.argsort(head.positions.reshape(-1))
        flat = flat[order[:, None], order]
        flat.diagonal().add_(self._objective.l2)
        return flat


def head_blocks(factors: Iterable[tuple[Tensor, Tensor]], into: Tensor) -> Tensor:
    """Add Σ_i S_i[c, e] x̃_i x̃_iᵀ to the blocks (c, e) of `into` (C, d, C, d), which holds zeros, and return it.

    Args:
        factors: x̃ (B, d) and symmetric S (B, C, C), block by block.
        into: what is filled; only one triangle of the blocks is computed.
    """
    C, d = into.shape[:2]
    for x, S in factors:
        for c in range(C):
            right = (S[:, c, c:, None] * x[:, None, :]).reshape(len(x), -1)
            into[c, :, c:] += (x.T @ right).view(d, C - c, d)
    for c in range(C):
        into[c + 1 :, :, c] = into[c, :, c + 1 :].permute(1, 2, 0)
    return into
