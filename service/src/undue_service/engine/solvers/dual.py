"""The dual (Woodbury) solve: a system in the P parameters becomes one in the M rows of a square root of its matrix."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Damped
from undue_service.engine.curvature.root import Root, combined, in_dtype
from undue_service.engine.gradients import FactoredGradients

from .base import Solution, relative_residuals
from .refusals import refuse_not_finite

_CHUNK = 1024
_POWER_ITERATIONS = 8
_LOST_DIGITS = 1e-2
"""ε·‖S‖ above which S and what it is applied to are made in float64: the identity in S would drown in rounding."""


@dataclass(frozen=True)
class DualState:
    """A + λI = D + ΦᵀΦ with a diagonal D, which is constant in each block of θ, and S = I + Φ D⁻¹ Φᵀ = L Lᵀ."""

    curvature: Damped
    rows: FactoredGradients
    """Φ, M rows."""
    scale: tuple[float, ...]
    """1/D of each block."""
    factor: Tensor
    """L, (M, M) float64."""
    dtype: torch.dtype
    """Of the inner products."""

    def products(self, gradients: FactoredGradients) -> Tensor:
        """Return Φ D⁻¹ g, (M, B), of the gradients of B rows."""
        return self.rows.gram(in_dtype(gradients, self.dtype), self.scale)

    def coefficients(self, gradients: FactoredGradients) -> Tensor:
        """Return S⁻¹ Φ D⁻¹ g, (M, B), in float64.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT.
        """
        found = torch.cholesky_solve(self.products(gradients).double(), self.factor)
        if not bool(torch.isfinite(found).all()):
            refuse_not_finite("a gradient")
        return found

    def bilinear(self, coefficients: Tensor, left: FactoredGradients, right: FactoredGradients) -> Tensor:
        """Return g_tᵀ (A + λI)⁻¹ g_i, (m, B), with `coefficients` of the left rows t."""
        left, right = in_dtype(left, self.dtype), in_dtype(right, self.dtype)
        found = left.gram(right, self.scale)
        return found.addmm_(coefficients.to(found).T, self.rows.gram(right, self.scale), alpha=-1)

    def quadratic(self, gradients: FactoredGradients) -> Tensor:
        """Return g_iᵀ (A + λI)⁻¹ g_i, (B,), in float64."""
        gradients = in_dtype(gradients, self.dtype)
        pairs = zip(self.scale, gradients.parts, strict=True)
        squares = sum(factor * part.squares().double() for factor, part in pairs)
        half = torch.linalg.solve_triangular(self.factor, self.products(gradients).double(), upper=False)
        return squares - half.square().sum(dim=0)


@dataclass(frozen=True)
class Dual:
    """(D + ΦᵀΦ)⁻¹ = D⁻¹ − D⁻¹Φᵀ (I + ΦD⁻¹Φᵀ)⁻¹ ΦD⁻¹ (Woodbury): M²·(M/3 + inner product) operations once.

    S is positive definite whatever Φ is, with no eigenvalue below 1.
    """

    name = "dual"

    def prepare(self, curvature: Damped) -> DualState:
        """Factorise S, in float64.

        Args:
            curvature: a `Root` and λ.

        Raises:
            FailedPrecondition: HESSIAN_SINGULAR where λ + l2 is zero for some parameter; NON_FINITE_RESULT.
        """
        root = curvature.curvature
        assert isinstance(root, Root)  # noqa: S101  what else there is has no rows
        blocks = root.rows.blocks
        free = [name for block in blocks if not block.l2 + curvature.damping > 0 for name in block.names]
        if free:
            text = (
                f"without damping or L2 on {', '.join(map(repr, free))} the Gauss–Newton matrix of {root.dim:,} "
                "parameters has no inverse that can be had in sample space: pass damping=, such as damping=1e-3"
            )
            raise FailedPrecondition(Reason.HESSIAN_SINGULAR, text)
        scale = tuple(1 / (block.l2 + curvature.damping) for block in blocks)
        own = root.objective.program.dtype
        for dtype in dict.fromkeys((own, torch.float64)):
            rows = in_dtype(root.rows, dtype)
            S = _identity_plus_gram(rows, scale)
            if not bool(torch.isfinite(S.sum())):
                refuse_not_finite("the Gauss–Newton matrix")
            factor, info = torch.linalg.cholesky_ex(S)
            if int(info) == 0 and torch.finfo(dtype).eps * _largest_eigenvalue(factor) < _LOST_DIGITS:
                return DualState(curvature, rows, scale, factor, dtype)
        text = (
            f"the Gauss–Newton matrix is too large beside its damping for float64: pass a larger damping than "
            f"{curvature.damping:.2g}"
        )
        raise FailedPrecondition(Reason.HESSIAN_SINGULAR, text)

    def solve(self, state: DualState, rhs: Tensor) -> Solution:
        """Solve for the columns of `rhs`, (P, K).

        Raises:
            FailedPrecondition: NON_FINITE_RESULT where a right-hand side is not finite.
        """
        value = inverse_product(state, rhs)
        if not bool(torch.isfinite(value).all()):
            refuse_not_finite("the solution of the Gauss–Newton system")
        return Solution(value, "converged", relative_residuals(state.curvature, value, rhs), matvecs=rhs.shape[1])


def inverse_product(state: DualState, rhs: Tensor) -> Tensor:
    """Return (A + λI)⁻¹ rhs, (P, K)."""
    denominators = rhs.new_empty(len(rhs))
    for block, factor in zip(state.rows.blocks, state.scale, strict=True):
        denominators[block.positions] = 1 / factor
    scaled = (rhs / denominators[:, None]).to(state.dtype)
    weights = torch.cholesky_solve(state.rows.dot(scaled).double(), state.factor).to(state.dtype)
    return (scaled - combined(state.rows, weights) / denominators[:, None]).to(rhs.dtype)


def _identity_plus_gram(rows: FactoredGradients, scale: tuple[float, ...]) -> Tensor:
    """Return the lower triangle of S in float64, and more of it."""
    M = len(rows.parts[0])
    S = torch.zeros(M, M, dtype=torch.float64, device=rows.parts[0].squares().device)
    for start in range(0, M, _CHUNK):
        stop = min(start + _CHUNK, M)
        some, before = (
            replace(rows, parts=tuple(part[at] for part in rows.parts)) for at in (slice(start, stop), slice(0, stop))
        )
        S[start:stop, :stop] = some.gram(before, scale)
    S.diagonal().add_(1)
    return S


def _largest_eigenvalue(factor: Tensor) -> float:
    """Estimate the largest eigenvalue of L Lᵀ, from below, by power iteration from a fixed start."""
    v = torch.ones(len(factor), 1, dtype=factor.dtype, device=factor.device)
    growth = v.new_zeros(())
    for _ in range(_POWER_ITERATIONS):
        v = factor @ (factor.T @ (v / v.norm()))
        growth = v.norm()
    return float(growth)
