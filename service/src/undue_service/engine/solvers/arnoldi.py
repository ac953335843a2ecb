"""Arnoldi's low rank (Schioppa et al. 2022): a curvature by its leading eigenpairs and its known diagonal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from undue_service.engine.curvature import Curvature, known_diagonal

from .base import Solution, relative_residuals
from .lanczos import ritz_range
from .refusals import damping_of, refuse_not_finite, refuse_spectrum

DEFAULT_RANK = 128

_BLOCK = 16
_LARGEST_SPACE = 3
"""Dimensions of the Krylov space for one eigenpair that is kept, at most; and two blocks more."""
_CONVERGED = 1e-3
"""Share of the largest eigenvalue that the residual of an eigenpair that is kept may have."""
_PROBE_STEPS = 2
"""Products of a block that looks for copies of eigenvalues that were found."""


def _unheard(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class LowRank:
    """A ≈ B^½ (I + U diag(μ) Uᵀ) B^½ with B = diag(`diagonal`), or A ≈ U diag(μ) Uᵀ where nothing is known of B."""

    curvature: Curvature
    root: Tensor | None
    """B^½, (P,)."""
    U: Tensor
    """Orthonormal, (P, rank)."""
    mu: Tensor
    """Descending, (rank,)."""
    accuracy: float
    """Largest ‖A u − μ u‖ of those kept, over the largest μ."""
    matvecs: int
    complete: bool
    """Whether the eigenpairs are all there are."""

    @property
    def status(self) -> str:
        """Return "converged", or how far it goes."""
        if self.complete:
            return "converged"
        return (
            f"truncated: {len(self.mu):,} of {self.curvature.dim:,} eigenpairs, to {self.accuracy:.0e} of the largest"
        )


@dataclass(frozen=True)
class Arnoldi:
    """s = B^−½ (I − U diag(μ/(1+μ)) Uᵀ) B^−½ v with the leading eigenpairs of B^−½ (A−B) B^−½, B = diag(l2·mask + λ).

    Where L2 covers every parameter that is (H+λI)⁻¹ ≈ U diag(1/(μ+l2+λ)) Uᵀ + (I − UUᵀ)/(l2+λ): beyond the leading
    directions the data is taken to curve nothing, and λ means what it does everywhere. Schioppa et al. drop the
    complement, s = U diag(1/μ) Uᵀ v, so a test gradient outside the space has no influence at all and λ cannot be told
    from none; that is what is done here where B is not positive, and only there.

    The eigenpairs are those of a block Krylov space with full orthogonalisation (for a symmetric matrix Arnoldi's
    iteration is Lanczos's), which is extended until they stand. What was cut off is an approximation, not an error:
    the residual that a solution reports is measured, with all of A.
    """

    name: ClassVar[str] = "arnoldi"
    rank: int = DEFAULT_RANK
    seed: int = 0
    progress: Callable[[int, int], None] = _unheard
    """Told (dimensions, dimensions at most) of the Krylov space after every block."""

    def prepare(self, curvature: Curvature) -> LowRank:
        """Find the eigenpairs: between `rank` and 3 · `rank` + 32 products, and twice as many vectors (P,) in memory.

        Raises:
            FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE where negative curvature is met, HESSIAN_SINGULAR where
                the whole spectrum is kept and holds a zero, NON_FINITE_RESULT.
        """
        diagonal = known_diagonal(curvature)
        P, eps = len(diagonal), torch.finfo(diagonal.dtype).eps
        root = diagonal.sqrt() if bool((diagonal > 0).all()) else None

        def product(V: Tensor) -> Tensor:
            W = curvature.matmat(V) if root is None else curvature.matmat(V / root[:, None]) / root[:, None] - V
            if not bool(torch.isfinite(W).all()):
                refuse_not_finite("a product with the Hessian")
            return W

        rank = min(self.rank, P)
        mu, U, accuracy, dimensions = self._eigenpairs(product, diagonal, rank)
        shift = 0.0 if root is None else 1.0
        rounding = P * eps * (float(mu.abs().max()) + shift)
        if float(mu[-1]) + shift < -rounding or (dimensions == P and float(mu[-1]) + shift <= rounding):
            start = U[:, -1] if root is None else U[:, -1] / root
            smallest, largest = ritz_range(curvature, start)
            rounding = P * eps * max(abs(smallest), abs(largest))
            if smallest < -rounding or rank == P:
                refuse_spectrum(smallest, largest, damping_of(curvature), rounding)
        kept = torch.arange(min(rank, len(mu)), device=mu.device)
        kept = kept[mu[kept] > rounding]
        if not len(kept) and root is None:
            refuse_spectrum(0.0, float(mu[0]), damping_of(curvature), rounding)
        return LowRank(curvature, root, U[:, kept], mu[kept], accuracy, dimensions, complete=rank == P)

    def solve(self, state: LowRank, rhs: Tensor) -> Solution:
        """Solve approximately for the columns of `rhs`, (P, K); the status says to what rank, the residual how well.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT where a right-hand side is not finite.
        """
        if not bool(torch.isfinite(rhs).all()):
            refuse_not_finite("a gradient")
        if state.root is None:
            value = state.U @ ((state.U.T @ rhs) / state.mu[:, None])
        else:
            scaled = rhs / state.root[:, None]
            shrunk = state.mu / (1 + state.mu)
            value = (scaled - state.U @ (shrunk[:, None] * (state.U.T @ scaled))) / state.root[:, None]
        residuals = relative_residuals(state.curvature, value, rhs)
        return Solution(value, state.status, residuals, rhs.shape[1])

    def _eigenpairs(
        self, product: Callable[[Tensor], Tensor], like: Tensor, rank: int
    ) -> tuple[Tensor, Tensor, float, int]:
        """Return all Ritz values descending, their vectors, the accuracy of the first `rank`, and the dimensions."""
        P = len(like)
        generator = torch.Generator().manual_seed(self.seed)

        def fresh(Q: Tensor) -> Tensor:
            V = torch.randn(P, min(_BLOCK, P), generator=generator, dtype=torch.float64).to(like)
            return _orthonormal(V, Q)

        largest_space = min(P, _LARGEST_SPACE * rank + 2 * _BLOCK)
        Q, T = like.new_zeros(P, 0), like.new_zeros(0, 0)
        block = fresh(Q)
        least_before: float | None = None
        steps = 0  # of the chain that began with the last fresh block
        while True:
            block = block[:, : largest_space - Q.shape[1]]
            W = product(block)
            Q = torch.cat([Q, block], dim=1)
            beside = Q.T @ W
            m, b = Q.shape[1], block.shape[1]
            grown = like.new_zeros(m, m)
            grown[: m - b, : m - b] = T
            grown[:, m - b :], grown[m - b :, :] = beside, beside.T
            T = (grown + grown.T) / 2
            values, vectors = torch.linalg.eigh(T)
            rest = W - Q @ beside
            # A Q = Q T + rest · (the last block's rows), so a Ritz pair's residual needs no product.
            errors = torch.linalg.vector_norm(rest @ vectors[m - b :], dim=0).flip(0)
            size = float(values.abs().max())
            accuracy = float(errors[:rank].max()) / size if size > 0 else 0.0
            steps += 1
            self.progress(m, largest_space)
            if m >= largest_space:
                break
            block = _orthonormal(rest, Q)
            settled = m >= rank and accuracy <= _CONVERGED and (least_before is None or steps >= _PROBE_STEPS)
            if settled or not block.shape[1]:
                # What a chain of blocks finds of an eigenspace is as wide as a block: another one, started outside of
                # it, has to find nothing that belongs among the first `rank`.
                least = float(values.flip(0)[min(rank, m) - 1])
                nothing_new = least_before is not None and m >= rank and least <= least_before + _CONVERGED * size
                if settled and nothing_new:
                    break
                block, least_before, steps = fresh(Q), least if m >= rank else None, 0
        return values.flip(0), Q @ vectors.flip(1), accuracy, m


def _orthonormal(V: Tensor, Q: Tensor) -> Tensor:
    """Return an orthonormal basis of V's columns without what lies in Q's, and without what is nothing beside V."""
    before = float(torch.linalg.vector_norm(V))
    for _ in range(2):
        V = V - Q @ (Q.T @ V)
    U, sizes, _ = torch.linalg.svd(V, full_matrices=False)
    U = U[:, sizes > 1e-10 * before]
    return torch.linalg.qr(U - Q @ (Q.T @ U))[0]
