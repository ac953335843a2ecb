"""Block conjugate gradients: solves with products alone, so no matrix over the parameters is ever made."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Curvature

from .base import Solution, relative_residuals
from .lanczos import ritz_range
from .refusals import damping_of, refuse_not_finite, refuse_spectrum

DEFAULT_TOLERANCE = 1e-8
DEFAULT_MAX_ITERATIONS = 1000

_DEPENDENT = 0.1
"""Share of what may be left of a residual below which a direction of the block is not worth a product."""

_PATIENCE = 100
"""Iterations without gain, or ten times as many as would end it without rounding, after which it starts anew."""

Preconditioner = Callable[[Tensor], Tensor]
"""V (P, K) → M⁻¹ V for a symmetric positive definite M near A; linear, and the same each time."""


def _unheard(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class ConjugateGradient:
    """A s = v for all right-hand sides as one block (O'Leary 1980): each gains from the directions of all others.

    The residuals are kept as Q C over an orthonormal basis Q (Dubrulle 2001, BCGrQ), which is what holds where A is
    conditioned badly; a recurrence over orthonormal directions instead does not converge at κ = 1e8. Directions in
    which no residual has anything left that matters are dropped, so dependent right-hand sides do no harm and the block
    shrinks as columns converge. One column is the method of Hestenes & Stiefel (1952): ‖r_k‖/‖r_0‖ ≤ 2 √κ
    ((√κ−1)/(√κ+1))^k with the condition number κ of M⁻¹A, about ½ √κ ln(2√κ/tolerance) iterations whatever P is. With K
    columns, κ is that without the K − 1 largest eigenvalues, and about P/K iterations end it: digits softmax (650
    parameters) for 100 rows takes 5 where one column takes 29.
    """

    name: ClassVar[str] = "cg"
    tolerance: float = DEFAULT_TOLERANCE
    """‖A s − v‖ ≤ tolerance · ‖v‖ for each column, by a product of its own at the end."""
    max_iterations: int = DEFAULT_MAX_ITERATIONS
    """Passes over the data for one `solve`, at most."""
    progress: Callable[[int, int], None] = _unheard
    """Told (columns solved, columns) after every iteration."""
    preconditioner: Preconditioner | None = None
    """None for none. It changes how many iterations are taken, never the answer beyond the tolerance."""

    def prepare(self, curvature: Curvature) -> Curvature:
        """Return the curvature: there is nothing to prepare."""
        return curvature

    def solve(self, state: Curvature, rhs: Tensor) -> Solution:
        """Solve for the columns of `rhs`, (P, K).

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED where a column needs more than `max_iterations`;
                HESSIAN_NOT_POSITIVE_DEFINITE where negative curvature is met, HESSIAN_SINGULAR where none is;
                NON_FINITE_RESULT where a right-hand side or a product is not finite. The messages say what to try.
        """
        norms = rhs.norm(dim=0)
        if not bool(torch.isfinite(norms).all()):
            refuse_not_finite("a gradient")
        unit = rhs / norms.where(norms > 0, 1)
        run = _Run(state, self)
        value = torch.zeros_like(rhs)
        residuals = (norms > 0).to(rhs.dtype)
        alone = False
        # The recurrence drifts from the residual it stands for: what counts is measured, and resumed if it is not met.
        while bool((residuals > self.tolerance).any()):
            left = (residuals > self.tolerance).nonzero()[:, 0]
            if run.iterations >= self.max_iterations:
                self._give_up(run, unit, residuals, stalled=False)
            start = unit[:, left]
            if run.iterations:
                start = start - run.product(value[:, left])
            done = rhs.shape[1] - len(left)
            # Near the limit of rounding a column by itself gets further than in a block.
            parts = start.split(1, dim=1) if alone else (start,)
            value[:, left] += torch.cat([run.descend(part, done) for part in parts], dim=1)
            before = residuals[left]
            residuals[left] = relative_residuals(state, value[:, left], unit[:, left])
            run.matvecs += len(left)
            if bool(((residuals[left] > self.tolerance) & (residuals[left] > 0.5 * before)).any()):
                if alone or len(left) == 1:
                    self._give_up(run, unit, residuals, stalled=run.iterations < self.max_iterations)
                alone = True
        self.progress(rhs.shape[1], rhs.shape[1])
        return Solution(value * norms, "converged", residuals, run.matvecs)

    def _give_up(self, run: "_Run", rhs: Tensor, residuals: Tensor, stalled: bool) -> NoReturn:
        worst, count = float(residuals.max()), int((residuals > self.tolerance).sum())
        _, largest = ritz_range(run.curvature, rhs[:, int(residuals.argmax())])
        # Largest √κ that the bound above lets through within the limit, as a fixed point.
        root = 2.0
        for _ in range(20):
            root = max(1.5, 2 * self.max_iterations / math.log(4 * root / self.tolerance))
        enough = f"{damping_of(run.curvature) + 2 * largest / (root**2 - 1):.1e}"
        try_ = "" if stalled else f"max_iterations={10 * self.max_iterations} "
        text = (
            f"conjugate gradients did not converge: after {run.iterations:,} iterations {count:,} of "
            f"{len(residuals):,} right-hand sides have a relative residual above {self.tolerance:.1g}, the largest "
            f"{worst:.2g}; pass a larger damping (damping={enough} should do), "
            f"{try_}or a larger tolerance" + (": rounding allows no smaller residual" if stalled else "")
        )
        metadata = {
            "residual": f"{worst:.6g}",
            "unsolved": str(count),
            "iterations": str(run.iterations),
            "sufficient_damping": enough,
        }
        raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata=metadata)


class _Run:
    """What one `solve` has used up and seen."""

    def __init__(self, curvature: Curvature, solver: ConjugateGradient) -> None:
        self.curvature = curvature
        self.solver = solver
        self.iterations = 0
        self.matvecs = 0
        self.scale = 0.0
        """Largest ‖A p‖/‖p‖ met: the largest eigenvalue, from below."""

    def product(self, V: Tensor) -> Tensor:
        self.matvecs += V.shape[1]
        return self.curvature.matmat(V)

    def descend(self, R: Tensor, done: int) -> Tensor:
        """Return the step from a residual R (P, K) towards A⁻¹ R, after which the recurrence meets the tolerance."""
        K = R.shape[1]
        goal = 0.5 * self.solver.tolerance  # half of it is left to the drift
        X, eps = torch.zeros_like(R), torch.finfo(R.dtype).eps
        block = self._factored(R, torch.eye(K, dtype=R.dtype, device=R.device))
        S = block.Z
        best, since = math.inf, 0
        while S.shape[1] and self.iterations < self.solver.max_iterations:
            AS = self.product(S)
            self.iterations += 1
            curved = self._curved(S, AS)
            X = X.addmm_(S, torch.cholesky_solve(block.C, curved))
            W = block.Q - torch.cholesky_solve(AS.T, curved).T
            block = self._factored(W, block.C)
            # ε‖A‖‖s‖ is what rounding makes of a residual: below it only a measured one tells more.
            solved = block.norms <= (eps * self.scale * X.norm(dim=0)).clamp(min=goal)
            self.solver.progress(done + int(solved.sum()), done + K)
            worst = float(block.norms.max())
            best, since = (worst, 0) if worst < 0.5 * best else (best, since + 1)
            if bool(solved.all()) or since > max(_PATIENCE, 10 * len(R) // S.shape[1]):
                break
            S = torch.addmm(block.Z, S, block.rho.T)
        return X

    def _factored(self, W: Tensor, C: Tensor) -> "_Block":
        """Return residuals W C with W (P, r), C (r, K) over a basis that is orthonormal under M⁻¹.

        Directions in which no residual has more than a small share of the goal are left out.
        """
        if not bool(torch.isfinite(W).all()):
            refuse_not_finite("a product with the Hessian")
        if self.solver.preconditioner is None:
            Q, rho = torch.linalg.qr(W)
            Z = Q
        else:
            Q, Z, rho = _orthonormal_under(W, self.solver.preconditioner(W))
        rest = rho @ C
        U, sizes, _ = torch.linalg.svd(rest, full_matrices=False)
        largest = float(sizes[0]) if len(sizes) else 0.0
        norms = rest.norm(dim=0) if Z is Q else (Q @ rest).norm(dim=0)
        worth = _DEPENDENT * 0.5 * self.solver.tolerance / C.shape[1] ** 0.5
        # Under M⁻¹ a residual has another size; what counts is its share of the whole.
        worth *= largest / max(float(torch.linalg.vector_norm(norms)), torch.finfo(W.dtype).tiny)
        kept = U[:, sizes > max(worth, max(C.shape) * torch.finfo(W.dtype).eps * largest)]
        if kept.shape[1] < Q.shape[1]:
            Q, Z, rho, rest = Q @ kept, Z @ kept, kept.T @ rho, kept.T @ rest
        return _Block(Q, Z, rho, rest, norms)

    def _curved(self, S: Tensor, AS: Tensor) -> Tensor:
        """Return the Cholesky factor of SᵀAS.

        Raises:
            FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE, HESSIAN_SINGULAR, NON_FINITE_RESULT.
        """
        T = S.T @ AS
        T = (T + T.T) / 2
        if not bool(torch.isfinite(T).all()):
            refuse_not_finite("a product with the Hessian")
        values, along = torch.linalg.eigh(T)
        curvatures = values / (S @ along).square().sum(dim=0)
        self.scale = max(self.scale, float((AS.norm(dim=0) / S.norm(dim=0)).max()), float(curvatures.max()))
        rounding = self.curvature.dim * torch.finfo(S.dtype).eps * self.scale
        worst = int(curvatures.argmin())
        met = float(curvatures[worst])
        factor, info = torch.linalg.cholesky_ex(T)
        if met <= rounding or int(info):
            smallest, largest = ritz_range(self.curvature, S @ along[:, worst])
            smallest = met if abs(met) <= rounding else smallest
            refuse_spectrum(smallest, max(largest, self.scale), damping_of(self.curvature), rounding, met=met)
        return factor


@dataclass(frozen=True, slots=True)
class _Block:
    """Residuals Q C of K columns."""

    Q: Tensor
    """Qᵀ M⁻¹ Q = I, (P, r)."""
    Z: Tensor
    """M⁻¹ Q, (P, r)."""
    rho: Tensor
    """Q ρ is what was factored, (r, r')."""
    C: Tensor
    """(r, K)."""
    norms: Tensor
    """Of the residuals, (K,)."""


def _orthonormal_under(W: Tensor, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, M⁻¹Q and ρ with W = Q ρ and Qᵀ M⁻¹ Q = I, of W and Z = M⁻¹ W; dependent columns are left out."""
    rho = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
    for _ in range(2):  # once loses as much as the condition number of W, squared
        G = W.T @ Z
        values, vectors = torch.linalg.eigh((G + G.T) / 2)
        kept = values > len(values) * torch.finfo(W.dtype).eps * values[-1]
        roots = values[kept].sqrt()
        inverse = vectors[:, kept] / roots
        W, Z, rho = W @ inverse, Z @ inverse, (roots[:, None] * vectors[:, kept].T) @ rho
    return W, Z, rho
