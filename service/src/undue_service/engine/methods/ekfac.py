"""`ekfac`: influence by EK-FAC (George et al. 2018; Grosse et al. 2023 for influence), scored from factors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.methods import METHODS
from undue_service.engine.curvature.eigenbasis import Basis, OuterBasis, weighted_squares
from undue_service.engine.curvature.ekfac import EKFAC, fit_ekfac
from undue_service.engine.curvature.low_rank import low_rank
from undue_service.engine.damping import resolve_damping
from undue_service.engine.data import Batch
from undue_service.engine.gradients import FactoredGradients, block_rows, loss_gradients
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort
from undue_service.engine.solvers.refusals import refuse_not_finite, refuse_spectrum
from undue_service.engine.taps import Outer, Part, Tap

from .base import Factors, Problem, Queries, ScoreBlock, SelfScores, check_settings, streamed, without_effort

DEFAULT_RANK = 32
"""Largest difference from the scores of full rank on Fashion-MNIST: 1e-4 of a test row's largest score; at 8, 0.03."""


@dataclass(frozen=True)
class Inverse:
    """(Λ + l2 + λ)⁻¹ of a block in its basis, or what stands for it."""

    basis: Basis
    exact: Tensor
    """1/(Λ + l2 + λ), (q,)."""
    thin: tuple[Tensor, Tensor] | None
    """U (O, r) and V (I, r) with U Vᵀ for the exact one, where scoring from factors is cheaper than without."""

    def scores_thinly(self, part: Part) -> bool:
        """Whether a test row's gradient scores from its factors."""
        if self.thin is None or not isinstance(part, Outer):
            return False
        shape = (1, part.deltas.shape[3], part.inputs.shape[3])
        return _is_cheaper(shape, self.thin[0].shape[1], part.inputs.shape[2])

    def columns(self, gradients: Tensor) -> Tensor:
        """Return what stands for the inverse times columns (q, K), (q, K)."""
        weights = self.exact if self.thin is None else (self.thin[0] @ self.thin[1].T).reshape(-1)
        return self.basis.from_basis(weights[:, None] * self.basis.to_basis(gradients))

    def factors(self, part: Outer) -> "ThinQueries":
        """Return the queries' factors, each repeated for every term of U Vᵀ."""
        U, V = self.thin
        Q_S, Q_A = self.basis.outputs[0], self.basis.inputs[0]

        def terms(values: Tensor, Q: Tensor, scales: Tensor) -> Tensor:
            turned = values[:, 0] @ Q  # (m, T, N)
            return (turned[:, :, None, :] * scales.T).flatten(0, 2) @ Q.T

        m, T = part.deltas.shape[0], part.deltas.shape[2]
        return ThinQueries(terms(part.deltas, Q_S, U).T, terms(part.inputs, Q_A, V).T, (m, T * U.shape[1]), T)


@dataclass(frozen=True)
class ThinQueries:
    """Test rows in a block, as factors: the score is Σ over terms and positions of (δ·δ')(x·x')."""

    deltas: Tensor
    """(O, m·T·r)."""
    inputs: Tensor
    """(I, m·T·r)."""
    shape: tuple[int, int]
    """m, T·r."""
    places: int
    """T."""

    def scores(self, part: Outer) -> Tensor:
        """Return the inner products with the rows of a part, (B, m)."""
        B, _, T, _ = part.inputs.shape
        products = (part.deltas.flatten(0, 2) @ self.deltas) * (part.inputs.flatten(0, 2) @ self.inputs)
        return products.view(B, T, *self.shape).sum(dim=(1, 3))


@dataclass(frozen=True)
class EKFACFactors(Factors):
    """The curvature and its damped inverse."""

    curvature: EKFAC
    inverses: tuple[Inverse, ...]


@dataclass(frozen=True)
class EKFACQueries(Queries):
    """Test rows, block by block: thin where the block is scored from factors, else as columns (q, m)."""

    of_block: tuple[ThinQueries | Tensor, ...]
    numel: int
    """Numbers that scoring one training row takes."""


class EkFac:
    """score(i, t) = (w_i/n) ∇m_tᵀ (EKFAC + l2 · diag(mask) + λI)⁻¹ ∇ℓ_i.

    A weight (O, I) that a row uses T times scores from its factors at r (I + O) T² products a pair, not I·O: with
    1/(Λ + l2 + λ) replaced by its best approximation of rank r under the eigenvalues' marginals.
    """

    spec = METHODS["ekfac"]
    query_columns = 1

    def fit(self, problem: Problem) -> EKFACFactors:
        """Measure the curvature in two passes, and invert it.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for, INVALID_FIELD.
            FailedPrecondition: HESSIAN_SINGULAR, HESSIAN_NOT_POSITIVE_DEFINITE where no damping can be derived,
                NON_FINITE_RESULT.
        """
        check_settings(problem, self.spec)
        curvature = fit_ekfac(
            problem.objective,
            problem.train,
            seed=problem.seed,
            memory_bytes=problem.memory_bytes,
            progress=problem.progress,
        )
        damping = resolve_damping(problem.damping, problem.objective, curvature.mean_eigenvalue)
        check_invertible(curvature, damping.value)
        known = (problem.objective.taps.taps, curvature.bases, curvature.eigenvalues, curvature.spectrum())
        inverses = tuple(
            _inverse(tap, basis, eigenvalues, spectrum + damping.value, problem.rank or DEFAULT_RANK)
            for tap, basis, eigenvalues, spectrum in zip(*known, strict=True)
        )
        return EKFACFactors(
            damping, leverage_correction=False, solver="ekfac", solver_status="", curvature=curvature, inverses=inverses
        )

    def query(self, factors: EKFACFactors, problem: Problem, asked: Asked) -> EKFACQueries:
        """Return the test rows with the inverse applied; those of a mean are dense."""
        gradients = asked.gradients(problem.objective)
        of_block = tuple(
            inverse.factors(part) if inverse.scores_thinly(part) else inverse.columns(part.rows().T)
            for inverse, part in zip(factors.inverses, gradients.parts, strict=True)
        )
        thin = sum(3 * one.places * one.deltas.shape[1] for one in of_block if isinstance(one, ThinQueries))
        return EKFACQueries(Effort(), of_block, thin + 3 * len(asked))

    def score(self, factors: EKFACFactors, queries: EKFACQueries, problem: Problem) -> Iterator[ScoreBlock]:  # noqa: ARG002
        """See Method."""
        return _scored(problem, lambda gradients: block_scores(queries, gradients), queries.numel)

    def self_score(self, factors: EKFACFactors, problem: Problem) -> SelfScores:
        """Yield (w_i/n) ∇ℓ_iᵀ (EKFAC + l2 · diag(mask) + λI)⁻¹ ∇ℓ_i, with the inverse as it is."""

        def scores(gradients: FactoredGradients) -> Tensor:
            pairs = zip(factors.inverses, gradients.parts, strict=True)
            return sum(weighted_squares(one.basis.rotated(part), one.exact) for one, part in pairs)

        return without_effort(_scored(problem, scores, problem.objective.taps.row_numel))


def check_invertible(curvature: EKFAC, damping: float) -> None:
    """Require that Λ + l2 + λ is positive beyond rounding.

    Raises:
        FailedPrecondition: HESSIAN_SINGULAR, NON_FINITE_RESULT.
    """
    smallest, largest = float("inf"), 0.0
    for spectrum in curvature.spectrum():
        if not bool(torch.isfinite(spectrum).all()):
            refuse_not_finite("the EK-FAC curvature")
        smallest, largest = min(smallest, float(spectrum.min())), max(largest, float(spectrum.max()))
    rounding = curvature.dim * torch.finfo(torch.float64).eps * largest
    if smallest + damping <= rounding:
        refuse_spectrum(smallest + damping, largest + damping, damping, rounding)


def _inverse(tap: Tap, basis: Basis, eigenvalues: Tensor, damped: Tensor, rank: int) -> Inverse:
    exact = 1 / damped
    if not isinstance(basis, OuterBasis) or not _is_cheaper(tap.block.shape, rank, tap.places):
        return Inverse(basis, exact, None)
    _, O, I = tap.block.shape  # noqa: E741
    U, V = low_rank(exact.view(O, I), eigenvalues.view(O, I), rank)
    return Inverse(basis, exact, (U.to(exact), V.to(exact)))


def _is_cheaper(shape: tuple[int, ...], rank: int, places: int) -> bool:
    """Whether a pair costs less as r T² pairs of factors than as O·I products."""
    G, O, I = shape  # noqa: E741
    return G == 1 and rank < min(O, I) and rank * places**2 * (O + I) < O * I


def block_scores(queries: EKFACQueries, gradients: FactoredGradients) -> Tensor:
    """Return ∇m_tᵀ (EKFAC + l2 · diag(mask) + λI)⁻¹ ∇ℓ_i, (B, m)."""
    return sum(_scores(one, part) for one, part in zip(queries.of_block, gradients.parts, strict=True))


def _scores(queries: ThinQueries | Tensor, part: Part) -> Tensor:
    return queries.scores(part) if isinstance(queries, ThinQueries) else part.dot(queries)


def _scored(problem: Problem, scores: Callable[[FactoredGradients], Tensor], row_numel: int) -> Iterator[ScoreBlock]:
    """Yield (w_i/n) times what is made of each training row's gradient: (B, m) or (B,)."""
    objective, n = problem.objective, len(problem.train)

    def work(batch: Batch) -> Tensor:
        found = scores(loss_gradients(objective, batch))
        return (found.mT if found.dim() == 2 else found) * (1 if batch.weights is None else batch.weights) / n

    return streamed(problem, block_rows(objective, problem.memory_bytes // 2, row_numel), work)
