"""The leverage correction of a linear head: what removing a row does beyond first order, in closed form.

With J_i = I_C ⊗ x̃_iᵀ and Q_i = (w_i/n) J_i H⁻¹ J_iᵀ (C × C), one Newton step from θ̂ on the objective without row i
moves the weights by H⁻¹ J_iᵀ r̃_i · w_i/n with r̃_i = (I − Σ_i Q_i)⁻¹ r_i (Woodbury on H − (w_i/n) J_iᵀ Σ_i J_i). For
squared error with λ = 0 that is leave-one-out itself; for C = 1 it divides by 1 − h_i. Never divide by 1 − trace(Σ_i
Q_i): the trace can exceed 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason

from .data import Batch, Rows
from .gradients import block_rows, output_gradients, training_batches
from .objective import Objective
from .progress import Progress, silent
from .quadratic_forms import QuadraticForms

_LEVERAGE_ONE = 1e-10  # what is left of 1 − h below this is rounding


@dataclass(frozen=True)
class Leverage:
    """What one pass over the training rows of a linear head gives."""

    residuals: Tensor
    """r̃_i, or r_i where no correction was asked for, (n, C)."""
    self_influence: Tensor
    """(w_i/n) ∇ℓ_iᵀ H⁻¹ J_iᵀ r̃_i, (n,): the row's influence on its own loss."""


@dataclass(frozen=True)
class LeverageBlock:
    """Some rows of a linear head."""

    batch: Batch
    features: Tensor
    """x̃, (B, d)."""
    residuals: Tensor
    """r, (B, C)."""
    curvature: Tensor
    """Σ, (B, C, C)."""
    Q: Tensor
    """(B, C, C)."""

    def corrected(self, remedy: str) -> Tensor:
        """Return r̃, (B, C).

        Raises:
            FailedPrecondition: LEVERAGE_UNAVAILABLE where a row has leverage 1, with what to do about it.
        """
        r = self.residuals
        A = torch.eye(r.shape[1], dtype=r.dtype, device=r.device) - self.curvature @ self.Q
        factors, pivots, _ = torch.linalg.lu_factor_ex(A)
        bad = ~(factors.diagonal(dim1=1, dim2=2).abs() > _LEVERAGE_ONE).all(dim=1)
        if bool(bad.any()):
            row = int(self.batch.index[int(bad.nonzero()[0, 0])])
            text = (
                f"training row {row} alone determines a weight (its leverage is 1), so the objective without it "
                f"has no minimum: {remedy}"
            )
            raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text, metadata={"row": str(row)})
        return torch.linalg.lu_solve(factors, pivots, r[:, :, None])[:, :, 0]


def leverage(
    objective: Objective,
    train: Rows,
    inverse: Tensor,
    *,
    correct: bool = True,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Leverage:
    """Return corrected residuals and self-influence of every training row.

    Args:
        objective: with a linear head.
        train: the n rows.
        inverse: H⁻¹ of the damped Hessian, (P, P).
        correct: whether to apply the correction.
        memory_bytes: budget of one block.
        progress: told after each block.

    Raises:
        FailedPrecondition: LEVERAGE_UNAVAILABLE where a row has leverage 1: the objective without it has no minimum.
    """
    n, C = len(train), objective.head.outputs
    residuals = torch.empty(n, C, dtype=inverse.dtype, device=inverse.device)
    own = torch.empty(n, dtype=inverse.dtype, device=inverse.device)
    for block in leverage_blocks(objective, train, inverse, memory_bytes=memory_bytes, progress=progress):
        r = block.residuals
        corrected = r
        if correct:
            corrected = block.corrected("register the model's l2, pass damping=, or leverage_correction=False")
        at = block.batch.index.to(residuals.device)
        residuals[at] = corrected
        own[at] = torch.einsum("bc,bce,be->b", r, block.Q, corrected)
    return Leverage(residuals, own)


def leverage_blocks(
    objective: Objective,
    train: Rows,
    inverse: Tensor,
    *,
    row_numel: int = 0,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Iterator[LeverageBlock]:
    """Yield what removals are made of, block by block; `row_numel` are the numbers that the caller needs a row."""
    n, forms = len(train), QuadraticForms(objective.head, inverse)
    size = block_rows(objective, memory_bytes // 2, row_numel + forms.row_numel + 5 * objective.head.outputs**2)
    done = 0
    for batch in training_batches(objective, train, size):
        yield leverage_block(objective, forms, batch, n)
        done += len(batch.index)
        progress("leverage", done, n)


def leverage_block(objective: Objective, forms: QuadraticForms, batch: Batch, n: int) -> LeverageBlock:
    """Return what the removal of some rows is made of.

    Args:
        objective: with a linear head.
        forms: of H⁻¹.
        batch: placed, with targets.
        n: how many rows the objective is a mean over.
    """
    x, f = objective.head.evaluate(batch.inputs)
    f, x = f.detach(), x.detach()
    r = output_gradients(f, lambda f: objective.loss.losses(f, batch.targets))
    Q = forms.of(x) / n
    Q = Q if batch.weights is None else Q * batch.weights[:, None, None]
    return LeverageBlock(batch, x, r, objective.loss.curvature(f, batch.targets), Q)
