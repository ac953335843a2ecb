"""Preconditioners of heads that are fitted in step: one factorised Hessian for all of them.

Only how fast a fit converges depends on it, as its own gradient and Hessian correct what it makes of a step.
"""

import torch
from torch import Tensor

from undue_service.engine.solvers.refusals import refuse_not_finite

from .conjugate_gradients import Preconditioner
from .objectives import HeadObjectives

_LIFT = 1e-6
_LARGE = 2_000
_TAME = 1e6
"""‖H‖ over the least eigenvalue, up to which a factor in float32 serves."""
_FEW_PRODUCTS = 4
"""That a step takes whose preconditioner is as good as a new one."""


class Renewed:
    """The preconditioner of fits in step: factorised again once the products that it led to cost as much.

    Where fits move far the Hessian where they start is none of where they end, and one at each step of each fit would
    cost more than the fit.
    """

    def __init__(self, objectives: HeadObjectives, *, abreast: int = 1) -> None:
        """Bind objectives; `abreast` fits take as long for a pass over the rows as one does."""
        self._objectives = objectives
        self._abreast = abreast
        self._solve: Preconditioner | None = None
        self._since = self._taken = 0

    def __call__(self, theta: Tensor) -> Preconditioner:
        """Return the preconditioner of an iteration at Θ (d, K, C)."""
        d, K, C = theta.shape
        # A product is 4 d C operations a row and the solve about as many, a Hessian d² C (C + 1).
        if self._solve is None or 8 * max(K, self._abreast) * self._since >= d * (C + 1):
            self._solve, self._since = factorised(self._objectives, theta.mean(dim=1)), 0
        self._taken = 0
        current = self._solve

        def solve(V: Tensor) -> Tensor:
            self._since += 1
            self._taken += 1
            return current(V)

        return solve

    def last(self, theta: Tensor) -> Preconditioner:
        """Return one for fits that start at Θ (d, C): that of the last iteration if it took few products there."""
        if self._solve is None or self._taken > _FEW_PRODUCTS:
            self._solve = factorised(self._objectives, theta)
        return self._solve


def factorised(objectives: HeadObjectives, theta: Tensor, damping: float = 0.0) -> Preconditioner:
    """Return the inverse of the first objective's H + λI at Θ (d, C), or of one slightly lifted where it is singular.

    Raises:
        FailedPrecondition: NON_FINITE_RESULT.
    """
    d, C = theta.shape
    least = objectives.modulus + damping
    if d * C >= _LARGE and least > 0:
        # Half the time and half the bytes.
        H = objectives.dense(theta, dtype=torch.float32)
        H.diagonal().add_(damping)
        if float(torch.linalg.matrix_norm(H, 1)) <= _TAME * least:
            factor, info = torch.linalg.cholesky_ex(H)
            if not int(info):
                return _solving(factor, d, C)
        del H
    H = objectives.dense(theta)
    H.diagonal().add_(damping)
    # What L2 leaves free may hold directions without curvature, where rounding must not be magnified; far from the
    # minimum, where a hinge is flat, it may hold no other.
    free = objectives.l2.reshape(-1) + damping == 0
    if bool(free.any()):
        H.diagonal().add_(_LIFT * free * torch.maximum(H.diagonal()[free].mean(), H.diagonal().mean()))
    if not bool(torch.isfinite(H).all()):
        refuse_not_finite("the Hessian")
    factor, info = torch.linalg.cholesky_ex(H)
    lift = len(H) * torch.finfo(H.dtype).eps * max(float(torch.linalg.matrix_norm(H, 1)), torch.finfo(H.dtype).tiny)
    while int(info):
        H.diagonal().add_(lift)
        factor, info = torch.linalg.cholesky_ex(H)
        lift *= 10
    return _solving(factor, d, C)


def _solving(factor: Tensor, d: int, C: int) -> Preconditioner:
    """Return V → (L Lᵀ)⁻¹ V of the coefficients laid flat."""

    def solve(V: Tensor) -> Tensor:
        columns = V.permute(0, 2, 1).reshape(d * C, -1).to(factor)
        return torch.cholesky_solve(columns, factor).to(V).view(d, C, -1).permute(0, 2, 1)

    return solve
