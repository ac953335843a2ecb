"""I_pert of any model, by one double backward pass for a block of rows."""

import torch
from torch import Tensor

from undue_service.engine.data import Batch
from undue_service.engine.objective import Objective

from .reach import cut_off, reached


def double_backward(objective: Objective, theta: Tensor, batch: Batch, name: str, s: Tensor) -> Tensor:
    """Return −sᵀ ∇ₓ∇_θ ℓ_i(θ) of each row of a placed batch, (B, …) of the input's shape.

    The loss of a row depends on no other row, so that ∇_θ Σ_i ℓ_i · s has in x_i the gradient of row i alone (Koh &
    Liang 2017, equation 5).

    Args:
        objective: ℓ.
        theta: θ, (P,).
        batch: the rows.
        name: of the input x.
        s: (P,).

    Raises:
        InvalidArgument: INPUT_NOT_DIFFERENTIABLE.
    """
    with torch.enable_grad():
        x = batch.inputs[name].detach().requires_grad_()
        at = theta.detach().requires_grad_()
        losses = objective.losses(at, Batch({**batch.inputs, name: x}, batch.targets, None, batch.index))
        (gradient,) = torch.autograd.grad(losses.sum(), at, create_graph=True)
        if not gradient.requires_grad:
            raise cut_off(f"the gradient of the loss does not depend on the input {name!r}")
        (found,) = torch.autograd.grad(gradient @ s.to(gradient.dtype), x, allow_unused=True)
    return -reached(found, name)
