"""What reweighting a group of training rows does to a linear head, by one Newton step in closed form.

With the factor f on the weights of the rows S, θ moves by −(f−1) H_f⁻¹ g_S, where g_S = (1/n) Σ_{i ∈ S} w_i J_iᵀ r_i
and H_f = H + λI + ((f−1)/n) J_Sᵀ W_S Σ_S J_S. By Woodbury that is −((f−1)/n) (H+λI)⁻¹ J_Sᵀ r̃_S with
r̃_S = (I + (f−1) W_S Σ_S Q_SS)⁻¹ W_S r_S and Q_SS = J_S (H+λI)⁻¹ J_Sᵀ / n: the leverage correction of a row where f = 0.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason

from .curvature import Dense, Hessian
from .data import Batch, Rows
from .gradients import block_rows, loss_gradients, output_gradients, training_batches
from .objective import Objective
from .progress import Progress, silent
from .solvers import Cholesky
from .solvers.cholesky import CholeskyState

_LEVERAGE_ONE = 1e-10  # what is left of 1 − h below this is rounding


class GroupResponse:
    """Newton steps of one linear head on reweighted objectives."""

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        state: CholeskyState,
        *,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind a head to its training data.

        Args:
            objective: with a linear head.
            train: the n rows.
            state: of H + λI, factorised.
            memory_bytes: budget of a block of rows.
            progress: told after each block.
        """
        self._objective = objective
        self._train = train
        self._state = state
        self._memory = memory_bytes
        self._progress = progress

    def changes(self, rows: Sequence[int], factors: Sequence[float], gradients: Tensor) -> Tensor:
        """Return ∇m · Δθ_f for each factor and each column of ∇m (P, K): (F, K).

        Args:
            rows: S.
            factors: f ≥ 0.
            gradients: ∇m.

        Raises:
            FailedPrecondition: LEVERAGE_UNAVAILABLE where H_f is singular: the rows that are left do not determine θ.
        """
        objective = self._objective
        # A system of |S|·C rows, for which H is solved, against one of P that is factorised for each factor.
        if 2 * len(rows) * objective.head.outputs <= objective.space.dim:
            return self._by_rows(rows, factors, gradients)
        return self._by_parameters(rows, factors, gradients)

    def _by_rows(self, rows: Sequence[int], factors: Sequence[float], gradients: Tensor) -> Tensor:
        objective, head, n = self._objective, self._objective.head, len(self._train)
        C, d = head.outputs, head.features
        parts = [self._facts(batch) for batch in self._batches(rows)]
        x, r, S, w = (torch.cat(column) for column in zip(*parts, strict=True))
        columns = x.new_zeros(C, d, len(x), C)
        for c in range(C):
            columns[c, :, :, c] = x.T
        solved = Cholesky().solve(self._state, head.to_theta(columns).reshape(objective.space.dim, -1)).value
        Q = torch.einsum("id,cdje->icje", x, head.from_theta(solved).view(C, d, len(x), C)) / n
        SQ = torch.einsum("i,ibc,icje->ibje", w, S, Q).reshape(len(x) * C, len(x) * C)
        wr = (w[:, None] * r).reshape(-1)
        moved = solved.T @ gradients / n
        return torch.stack([(1 - f) * (_solved(SQ, f - 1, wr) @ moved) for f in factors])

    def _by_parameters(self, rows: Sequence[int], factors: Sequence[float], gradients: Tensor) -> Tensor:
        objective, n = self._objective, len(self._train)
        inner = Hessian(objective, self._train, select=rows, memory_bytes=self._memory, progress=self._progress)
        own = inner.to_dense()
        own.diagonal().sub_(objective.l2)
        own *= len(rows) / n
        g = torch.zeros_like(objective.theta)
        for batch in self._batches(rows):
            g += loss_gradients(objective, batch).total(batch.weights) / n
        H = self._state.curvature.to_dense()
        found = []
        for f in factors:
            reweighted = Cholesky().prepare(Dense(H + (f - 1) * own))
            found.append((1 - f) * (gradients.T @ Cholesky().solve(reweighted, g[:, None]).value)[:, 0])
        return torch.stack(found)

    def _batches(self, rows: Sequence[int]) -> Iterator[Batch]:
        objective = self._objective
        own = 2 * objective.head.features + objective.head.outputs**2
        done = 0
        for batch in training_batches(objective, self._train, block_rows(objective, self._memory // 4, own), rows):
            yield batch
            done += len(batch.index)
            self._progress("group", done, len(rows))

    def _facts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x̃ (B, d), r (B, C), Σ (B, C, C) and w (B,)."""
        x, f = (one.detach() for one in self._objective.head.evaluate(batch.inputs))
        r = output_gradients(f, lambda f: self._objective.loss.losses(f, batch.targets))
        w = x.new_ones(len(x)) if batch.weights is None else batch.weights
        return x, r, self._objective.loss.curvature(f, batch.targets), w


def _solved(SQ: Tensor, scale: float, wr: Tensor) -> Tensor:
    """Return (I + scale · SQ)⁻¹ wr.

    Raises:
        FailedPrecondition: LEVERAGE_UNAVAILABLE where it does not exist.
    """
    A = torch.eye(len(SQ), dtype=SQ.dtype, device=SQ.device) + scale * SQ
    factors, pivots, _ = torch.linalg.lu_factor_ex(A)
    if not bool((factors.diagonal().abs() > _LEVERAGE_ONE).all()):
        text = (
            "without the group nothing determines some weight, so the objective without it has no minimum: register "
            "the model's l2, pass damping=, or leave the group out of reweight"
        )
        raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text)
    return torch.linalg.lu_solve(factors, pivots, wr[:, None])[:, 0]
