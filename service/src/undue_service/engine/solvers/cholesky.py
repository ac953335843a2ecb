"""Cholesky: the dense, exact solver of a positive definite curvature."""

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Curvature, Damped

from .base import Solution, relative_residual

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
            text = "the Hessian holds NaN or infinite values; check the model's weights and the range of its inputs"
            raise FailedPrecondition(Reason.NON_FINITE_RESULT, text)
        factor, info = torch.linalg.cholesky_ex(A)
        tolerance = _singular_below(A)
        if int(info) != 0 or _smallest_eigenvalue(factor) < tolerance:
            _refuse(A, curvature.damping if isinstance(curvature, Damped) else 0.0, tolerance)
        return CholeskyState(curvature, factor)

    def solve(self, state: CholeskyState, rhs: Tensor) -> Solution:
        """Solve for the columns of `rhs`, (P, K).

        Raises:
            FailedPrecondition: NON_FINITE_RESULT where a right-hand side or the solution is not finite.
        """
        value = torch.cholesky_solve(rhs, state.factor)
        if not bool(torch.isfinite(value).all()):
            text = (
                "the solution of the Hessian system is not finite; check the model's weights and the range of its "
                "inputs"
            )
            raise FailedPrecondition(Reason.NON_FINITE_RESULT, text)
        return Solution(value, "converged", relative_residual(state.curvature, value, rhs), matvecs=rhs.shape[1])


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


def _refuse(A: Tensor, damping: float, tolerance: float) -> NoReturn:
    """Raise the error for a matrix that already holds this damping."""
    eigenvalues = torch.linalg.eigvalsh(A)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    scale = max(abs(smallest), abs(largest)) or 1.0
    enough = f"{1.05 * (damping + 2 * max(-smallest, 0.0) + 1e-6 * scale):.1e}"  # 5 % outweighs what .1e rounds down
    metadata = {"smallest_eigenvalue": f"{smallest:.6g}", "sufficient_damping": enough}
    spectrum = f"smallest eigenvalue {smallest:.4g}, largest {largest:.4g}, damping {damping:.2g} included"
    if smallest < -tolerance:
        text = (
            f"the Hessian is not positive definite ({spectrum}): the model is not at a minimum of its objective; "
            f"pass damping={enough} or more, or train the model further"
        )
        raise FailedPrecondition(Reason.HESSIAN_NOT_POSITIVE_DEFINITE, text, metadata=metadata)
    text = (
        f"the Hessian is singular ({spectrum}): some change of the weights leaves the objective as it is; register the "
        f"l2 that the model was trained with, or pass damping={enough} or more"
    )
    raise FailedPrecondition(Reason.HESSIAN_SINGULAR, text, metadata=metadata)
