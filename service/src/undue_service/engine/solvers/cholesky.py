"""Cholesky: the dense, exact solver of a positive definite curvature."""

from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.curvature import Curvature

from .base import Solution, relative_residuals
from .refusals import damping_of, refuse_not_finite, refuse_spectrum

_INVERSE_ITERATIONS = 4


@dataclass(frozen=True)
class CholeskyState:
    """A factorised curvature."""

    curvature: Curvature
    factor: Tensor
    """Lower triangular L with L Lᵀ = A, (P, P)."""


class Cholesky:
    """A = L Lᵀ by LAPACK or cuSOLVER: P³/3 operations once, 2P² a right-hand side."""

    name = "cholesky"

    def prepare(self, curvature: Curvature) -> CholeskyState:
        """Factorise.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT where the matrix holds NaN or infinity, HESSIAN_NOT_POSITIVE_DEFINITE
                where it has a negative eigenvalue, HESSIAN_SINGULAR where its smallest is zero in floating point; the
                message names the smallest eigenvalue and a damping that is enough.
        """
        A = curvature.to_dense()
        if not bool(torch.isfinite(A).all()):
            refuse_not_finite("the Hessian")
        factor, info = torch.linalg.cholesky_ex(A)
        tolerance = _singular_below(A)
        if int(info) != 0 or _smallest_eigenvalue(factor) < tolerance:
            eigenvalues = torch.linalg.eigvalsh(A)
            refuse_spectrum(float(eigenvalues[0]), float(eigenvalues[-1]), damping_of(curvature), tolerance)
        return CholeskyState(curvature, factor)

    def solve(self, state: CholeskyState, rhs: Tensor) -> Solution:
        """Solve for the columns of `rhs`, (P, K).

        Raises:
            FailedPrecondition: NON_FINITE_RESULT where a right-hand side or the solution is not finite.
        """
        value = torch.cholesky_solve(rhs, state.factor)
        if not bool(torch.isfinite(value).all()):
            refuse_not_finite("the solution of the Hessian system")
        return Solution(value, "converged", relative_residuals(state.curvature, value, rhs), matvecs=rhs.shape[1])


def _singular_below(A: Tensor) -> float:
    """Return the eigenvalue that rounding alone can produce: P·ε·‖A‖₁."""
    return A.shape[0] * torch.finfo(A.dtype).eps * float(torch.linalg.matrix_norm(A, 1))


def _smallest_eigenvalue(factor: Tensor) -> float:
    """Estimate the smallest eigenvalue of L Lᵀ, from above, by inverse iteration from a fixed start."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(factor.shape[0], 1, generator=generator, dtype=torch.float64).to(factor)
    growth = v.new_zeros(())
    for _ in range(_INVERSE_ITERATIONS):
        v = v / v.norm()
        v = torch.cholesky_solve(v, factor)
        growth = v.norm()
    return float(1 / growth) if bool(torch.isfinite(growth)) else 0.0
