"""Gradients of the objectives under edits: one pass over the rows for all, and what each edit changes of it.

What all rows give is the same function of a head for all K; what an edit changes of it comes from the edited rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from undue_service.engine.heads.block import repeated
from undue_service.engine.heads.coefficients import l2_of
from undue_service.engine.objective import Objective

from .head_edits import HeadEdits
from .residuals import residuals

_CACHED = 2**17
"""Numbers of a piece's outputs that stay in a core's caches."""
_FEWEST_ROWS = 64


class EditedGradients:
    """∇R_k of K objectives over the same rows, each under an edit of them."""

    def __init__(self, objective: Objective, edits: HeadEdits, *, told: Callable[[], None] = lambda: None) -> None:
        """Bind edits; `told` is called after every block of rows."""
        self._loss = objective.loss
        self._l2 = l2_of(objective)
        self._edits = edits
        self._told = told

    def __call__(self, theta: Tensor, at: Tensor) -> Tensor:
        """Return ∇R_k, (d, A, C), of the objectives `at` (A,) at Θ_k: one pass in pieces that stay in the caches."""
        d, A, C = theta.shape
        inner = theta.permute(0, 2, 1).reshape(d, C * A)
        total = torch.zeros_like(inner)
        for block in self._edits.unedited():
            shifted = bool(block.offsets.any())
            for part in block.parts(max(_FEWEST_ROWS, _CACHED // (C * A))):
                f = (part.features @ inner).view(-1, C, A)
                if shifted:
                    f += part.offsets[:, :, None]
                found = residuals(self._loss, f, part.targets)
                if part.weights is not None:
                    found = found * part.weights[:, None, None]
                total.addmm_(part.features.T, found.reshape(len(found), C * A))
            self._told()
        whole = total.view(d, C, A).permute(0, 2, 1)
        return (whole + self._difference(theta, at)) / self._edits.divisors[at, None] + self._l2[:, None] * theta

    def at_one(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return ∇R_k, (d, K, C), of all K at one Θ (d, C), from the edited rows and ∇R(Θ), (d, C), on all rows."""
        K = len(self._edits)
        shared = theta[:, None].expand(-1, K, -1)
        whole = self._edits.rows * (gradient - self._l2 * theta)[:, None]
        found = whole + self._difference(shared, torch.arange(K, device=theta.device))
        return found / self._edits.divisors[:, None] + self._l2[:, None] * shared

    def _difference(self, theta: Tensor, at: Tensor) -> Tensor:
        """Return Σ_i w_ik ∇ℓ_ik − Σ_i w_i ∇ℓ_i, (d, A, C): nothing but what is edited has a part in it."""
        found = torch.zeros_like(theta)
        for block in self._edits.edited():
            f = block.outputs(theta).requires_grad_()
            A, C = f.shape[1:]
            flat = f.view(-1, C)
            own = 1 if block.weights is None else block.weights[:, None]
            edited, targets = self._edits.weights(block)[:, at], self._edits.targets(block, at)
            new = self._loss.losses(flat, targets).view(-1, A) * edited
            old = self._loss.losses(flat, repeated(block.targets, A)).view(-1, A) * own
            (change,) = torch.autograd.grad((new - old).sum(), f)
            found = found + block.gather(change)
        return found
