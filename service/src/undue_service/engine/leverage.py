"""The leverage correction of a linear head: what removing a row does beyond first order, in closed form.

With J_i = I_C ⊗ x̃_iᵀ and Q_i = (w_i/n) J_i H⁻¹ J_iᵀ (C × C), one Newton step from θ̂ on the objective without row i
moves the weights by H⁻¹ J_iᵀ r̃_i · w_i/n with r̃_i = (I − Σ_i Q_i)⁻¹ r_i (Woodbury on H − (w_i/n) J_iᵀ Σ_i J_i). For
squared error with λ = 0 that is leave-one-out itself; for C = 1 it divides by 1 − h_i. Never divide by 1 − trace(Σ_i
Q_i): the trace can exceed 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason

from .data import Rows
from .gradients import block_rows, output_gradients, training_batches
from .objective import Objective
from .progress import Progress, silent

_LEVERAGE_ONE = 1e-10  # what is left of 1 − h below this is rounding


@dataclass(frozen=True)
class Leverage:
    """What one pass over the training rows of a linear head gives."""

    residuals: Tensor
    """r̃_i, or r_i where no correction was asked for, (n, C)."""
    self_influence: Tensor
    """(w_i/n) ∇ℓ_iᵀ H⁻¹ J_iᵀ r̃_i, (n,): the row's influence on its own loss."""


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
    head, n = objective.head, len(train)
    C, d = head.outputs, head.features
    blocks = head.from_theta(head.from_theta(inverse).permute(2, 0, 1)).permute(2, 3, 0, 1)
    residuals = torch.empty(n, C, dtype=inverse.dtype, device=inverse.device)
    own = torch.empty(n, dtype=inverse.dtype, device=inverse.device)
    done = 0
    for batch in training_batches(objective, train, block_rows(objective, memory_bytes // 2, 2 * C * d + 5 * C * C)):
        x, f = head.evaluate(batch.inputs)
        r = output_gradients(f, lambda f, y=batch.targets: objective.loss.losses(f, y))
        Q = _quadratic_forms(x, blocks) / n
        Q = Q if batch.weights is None else Q * batch.weights[:, None, None]
        corrected = r
        if correct:
            S = objective.loss.curvature(f)
            A = torch.eye(C, dtype=r.dtype, device=r.device) - S @ Q
            factors, pivots, _ = torch.linalg.lu_factor_ex(A)
            corrected = torch.linalg.lu_solve(factors, pivots, r[:, :, None])[:, :, 0]
            bad = ~(factors.diagonal(dim1=1, dim2=2).abs() > _LEVERAGE_ONE).all(dim=1)
            if bool(bad.any()):
                row = int(batch.index[int(bad.nonzero()[0, 0])])
                text = (
                    f"training row {row} alone determines a weight (its leverage is 1), so the objective without it "
                    "has no minimum: register the model's l2, pass damping=, or leverage_correction=False"
                )
                raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text, metadata={"row": str(row)})
        at = batch.index.to(residuals.device)
        residuals[at] = corrected
        own[at] = torch.einsum("bc,bce,be->b", r, Q, corrected)
        done += len(batch.index)
        progress("leverage", done, n)
    return Leverage(residuals, own)


def _quadratic_forms(x: Tensor, blocks: Tensor) -> Tensor:
    """Return x_iᵀ A_ce x_i, (B, C, C), of symmetric blocks A (C, d, C, d)."""
    C, d = blocks.shape[:2]
    Q = x.new_empty(len(x), C, C)
    for c in range(C):
        projected = (x @ blocks[c, :, c:].reshape(d, (C - c) * d)).view(len(x), C - c, d)
        Q[:, c, c:] = Q[:, c:, c] = torch.bmm(projected, x[:, :, None])[:, :, 0]
    return Q
