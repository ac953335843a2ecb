"""Conjugate gradients: solves with products alone, so no matrix over the parameters is ever made."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Curvature

from .base import Solution, relative_residuals
from .refusals import damping_of, refuse_not_finite, refuse_spectrum

DEFAULT_TOLERANCE = 1e-8
DEFAULT_MAX_ITERATIONS = 1000

_LANCZOS_STEPS = 40


def _unheard(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class ConjugateGradient:
    """A s = v (Hestenes & Stiefel 1952), all right-hand sides in step: one pass over the data serves them all.

    Each column has its own step lengths, so it does not matter which others it is solved with; one that has converged
    leaves the pass. ‖r_k‖/‖r_0‖ ≤ 2 √κ ((√κ−1)/(√κ+1))^k with the condition number κ: about ½ √κ ln(2√κ/tolerance)
    iterations, whatever P is.
    """

    name: ClassVar[str] = "cg"
    tolerance: float = DEFAULT_TOLERANCE
    """‖A s − v‖ ≤ tolerance · ‖v‖ for each column, by a product of its own at the end."""
    max_iterations: int = DEFAULT_MAX_ITERATIONS
    """Passes over the data for one `solve`, at most."""
    progress: Callable[[int, int], None] = _unheard
    """Told (columns solved, columns) after every iteration."""

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
        # The recurrence drifts from the residual it stands for: what counts is measured, and resumed if it is not met.
        while bool((residuals > self.tolerance).any()):
            left = (residuals > self.tolerance).nonzero()[:, 0]
            if run.iterations >= self.max_iterations:
                self._give_up(run, unit, residuals, stalled=False)
            start = unit[:, left]
            if run.iterations:
                start = start - run.product(value[:, left])
            value[:, left] += run.descend(start, done=rhs.shape[1] - len(left))
            before = residuals[left]
            residuals[left] = relative_residuals(state, value[:, left], unit[:, left])
            run.matvecs += len(left)
            if bool(((residuals[left] > self.tolerance) & (residuals[left] > 0.5 * before)).any()):
                self._give_up(run, unit, residuals, stalled=run.iterations < self.max_iterations)
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
        steps = torch.zeros_like(R)
        goal = 0.5 * self.solver.tolerance  # half of it is left to the drift
        columns = torch.arange(K, device=R.device)
        P, S = R, torch.zeros_like(R)
        rho = R.square().sum(dim=0)
        while len(columns) and self.iterations < self.solver.max_iterations:
            Q = self.product(P)
            self.iterations += 1
            curvatures = (P * Q).sum(dim=0)
            self._check(P, Q, curvatures)
            alpha = rho / curvatures
            S, R = S + alpha * P, R - alpha * Q
            before, rho = rho, R.square().sum(dim=0)
            P = R + (rho / before) * P
            running = rho.sqrt() > goal
            if not bool(running.all()):
                steps[:, columns[~running]] = S[:, ~running]
                columns, rho = columns[running], rho[running]
                P, R, S = P[:, running], R[:, running], S[:, running]
            self.solver.progress(done + K - len(columns), done + K)
        steps[:, columns] = S
        return steps

    def _check(self, P: Tensor, Q: Tensor, curvatures: Tensor) -> None:
        sizes = P.square().sum(dim=0)
        rayleigh = curvatures / sizes
        if not bool(torch.isfinite(rayleigh).all()):
            refuse_not_finite("a product with the Hessian")
        self.scale = max(self.scale, float((Q.norm(dim=0) / sizes.sqrt()).max()))
        rounding = self.curvature.dim * torch.finfo(P.dtype).eps * self.scale
        worst = int(rayleigh.argmin())
        met = float(rayleigh[worst])
        if met <= rounding:
            smallest, largest = ritz_range(self.curvature, P[:, worst])
            smallest = met if abs(met) <= rounding else smallest
            refuse_spectrum(smallest, max(largest, self.scale), damping_of(self.curvature), rounding, met=met)


def ritz_range(curvature: Curvature, start: Tensor) -> tuple[float, float]:
    """Return the extreme eigenvalues of A on the Krylov space of `start` (P,), which lie inside A's own and near them.

    Lanczos (1950) with full orthogonalisation, 40 products at most.
    """
    V = (start / start.norm())[:, None]
    diagonal, beside = [], []
    for _ in range(min(_LANCZOS_STEPS, curvature.dim)):
        w = curvature.matmat(V[:, -1:])[:, 0]
        diagonal.append(V[:, -1] @ w)
        for _ in range(2):
            w = w - V @ (V.T @ w)
        beside.append(w.norm())
        if not float(beside[-1]) > 1e-12 * float(torch.stack(diagonal).abs().max()):
            break
        V = torch.cat([V, (w / beside[-1])[:, None]], dim=1)
    T = torch.diag(torch.stack(diagonal))
    off = torch.stack(beside)[: len(diagonal) - 1]
    T = T + torch.diag(off, 1) + torch.diag(off, -1)
    values = torch.linalg.eigvalsh(T)
    return float(values[0]), float(values[-1])
