"""The generalised Gauss–Newton matrix: the Hessian without what the model itself curves (Schraudolph 2002)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import jacrev, jvp, vjp, vmap

from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.engine.data import Batch, Rows
from undue_service.engine.fisher import uniform
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .base import check_dense
from .estimate import Estimate
from .head import HeadCurvature
from .streaming import Stream
from .trace import SEED

_EXACT_TRACE = 2**31
"""n · C · P up to which the trace is read off all Jacobians: a few seconds' work."""


class GaussNewton:
    """G = (1/n) Σ_i w_i J_iᵀ Σ_i J_i + l2 · diag(mask), J_i = ∂f_i/∂θ (C, P), Σ_i = ∂²ℓ_i/∂f² (C, C).

    Positive semi-definite, as the losses are convex in f; for cross-entropy, logistic loss and squared error it is the
    Fisher information too (Martens 2020). Products are a forward derivative to the outputs and a
    reverse one back, all columns at once, for any program; for a linear head it is the Hessian, in closed form.
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

    def of(self, rows: Sequence[int]) -> "GaussNewton | HeadCurvature":
        """See MeanOfRows."""
        if self._head is not None:
            return self._head.of(rows)
        return GaussNewton(self._objective, self._stream.train, select=rows, memory_bytes=self._stream.memory_bytes)

    def matmat(self, V: Tensor) -> Tensor:
        """Return G V, (P, K), reading the data once for as many columns as fit into memory."""
        if self._head is not None:
            return self._head.matmat(V)
        return self._stream.mean_product(V, self._block_product)

    def to_dense(self) -> Tensor:
        """Return G, (P, P), from the Jacobians.

        Raises:
            FailedPrecondition: TOO_MANY_PARAMETERS where P exceeds the limit.
        """
        check_dense(self.dim, self._limit, "Gauss–Newton matrix")
        if self._head is not None:
            return self._head.to_dense()
        dense = self._objective.theta.new_zeros(self.dim, self.dim)
        for J, SJ in self._stream.made(self._jacobians, 3 * self._objective.outputs_per_row * self.dim):
            dense.addmm_(J.flatten(0, 1).T, SJ.flatten(0, 1))
        dense = (dense + dense.T) / (2 * self.rows)
        dense.diagonal().add_(self._objective.l2)
        return dense

    def mean_eigenvalue(self) -> Estimate:
        """Return trace(G)/P: exactly where n · C · P is no larger than 2³¹ and for a linear head, else in one pass.

        trace(JᵀΣJ) = E (Jᵀε)·(JᵀΣε) for random signs ε over the C outputs, drawn afresh for each row: two gradients a
        row, and n independent draws (Hutchinson 1990, in the space of the outputs).
        """
        if self._head is not None:
            return self._head.mean_eigenvalue()
        C = self._objective.outputs_per_row
        exact = self.rows * C * self.dim <= _EXACT_TRACE
        work, columns = (self._traces, 3 * C) if exact else (self._drawn_traces, 3)
        traces = torch.cat(list(self._stream.made(work, columns * self.dim)))
        value = (float(traces.mean()) + float(self._objective.l2.sum())) / self.dim
        return Estimate(value, 0.0 if exact else float(traces.std()) / (self.rows**0.5 * self.dim))

    def _block_product(self, batch: Batch, V: Tensor) -> Tensor:
        def outputs(theta: Tensor) -> Tensor:
            return self._objective.outputs(theta, batch.inputs)

        theta = self._objective.theta
        f, back = vjp(outputs, theta)
        S = self._curvatures(f, batch)

        def product(v: Tensor) -> Tensor:
            moved = jvp(outputs, (theta,), (v,))[1]
            return back((S @ moved[:, :, None])[:, :, 0])[0]

        return vmap(product, in_dims=1, out_dims=1)(V)

    def _curvatures(self, f: Tensor, batch: Batch) -> Tensor:
        """Return w_i Σ_i, (B, C, C)."""
        S = self._objective.loss.curvature(f.detach(), batch.targets)
        return S if batch.weights is None else S * batch.weights[:, None, None]

    def _jacobians(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return J_i and w_i Σ_i J_i, (B, C, P) each."""
        theta = self._objective.theta

        def of_row(theta: Tensor, row: dict[str, Tensor]) -> Tensor:
            return self._objective.outputs(theta, {name: tensor[None] for name, tensor in row.items()})[0]

        J = vmap(jacrev(of_row), in_dims=(None, 0))(theta, dict(batch.inputs))
        return J, torch.bmm(self._curvatures(self._objective.outputs(theta, batch.inputs), batch), J)

    def _traces(self, batch: Batch) -> Tensor:
        J, SJ = self._jacobians(batch)
        return torch.linalg.vecdot(J.flatten(1), SJ.flatten(1))

    def _drawn_traces(self, batch: Batch) -> Tensor:
        """Return (J_iᵀε)·(J_iᵀ w_iΣ_i ε), (B,)."""
        theta = self._objective.theta
        f = self._objective.outputs(theta, batch.inputs)
        signs = torch.where(uniform(batch.index, f.shape[1], SEED) < 0.5, -1.0, 1.0).to(f)
        curved = (self._curvatures(f, batch) @ signs[:, :, None])[:, :, 0]

        def of_row(theta: Tensor, row: dict[str, Tensor], e: Tensor, se: Tensor) -> Tensor:
            back = vjp(lambda t: self._objective.outputs(t, {name: one[None] for name, one in row.items()})[0], theta)[
                1
            ]
            return (back(e)[0] * back(se)[0]).sum()

        return vmap(of_row, in_dims=(None, 0, 0, 0))(theta, dict(batch.inputs), signs, curved)
