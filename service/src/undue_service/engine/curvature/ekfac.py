"""EK-FAC: the Gauss–Newton matrix, diagonal in the eigenbasis of K-FAC (George et al. 2018)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.fisher import cotangents, is_exact
from undue_service.engine.gradients import block_rows, each_block
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.taps import Block, Outer, Part

from .eigenbasis import Basis, sum_of_squares
from .kfac import Moments, moments
from .trace import Estimate

Gradients = list[list[Part]]
"""Of each block, for each cotangent."""


@dataclass(frozen=True)
class EKFAC:
    """Q diag(Λ) Qᵀ + l2 · diag(mask), block by block, Λ = (1/n) Σ_i w_i Σ_c (Qᵀ g_ic)²: its diagonal in the basis Q.

    Λ is the second moment of what the basis sees, measured, so the trace is that of the Gauss–Newton matrix itself.
    """

    blocks: tuple[Block, ...]
    bases: tuple[Basis, ...]
    eigenvalues: tuple[Tensor, ...]
    """Λ of each block, (q,), in its order."""

    @property
    def dim(self) -> int:
        """Return P."""
        return sum(block.numel for block in self.blocks)

    def matmat(self, V: Tensor) -> Tensor:
        """See Curvature."""
        return self._spectral(V, lambda eigenvalues: eigenvalues)

    def solve(self, V: Tensor, damping: float) -> Tensor:
        """Return (EKFAC + l2 · diag(mask) + λI)⁻¹ V, (P, K)."""
        return self._spectral(V, lambda eigenvalues: 1 / (eigenvalues + damping))

    def to_dense(self) -> Tensor:
        """See Curvature."""
        like = self.eigenvalues[0]
        return self.matmat(torch.eye(self.dim, dtype=like.dtype, device=like.device))

    def mean_eigenvalue(self) -> Estimate:
        """Return trace / P."""
        total = sum(float(one.double().sum()) for one in self.spectrum())
        return Estimate(total / self.dim)

    def spectrum(self) -> Iterator[Tensor]:
        """Yield Λ + l2 of each block, (q,)."""
        for block, eigenvalues in zip(self.blocks, self.eigenvalues, strict=True):
            yield eigenvalues + block.l2

    def _spectral(self, V: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        found = torch.empty_like(V)
        for block, basis, eigenvalues in zip(self.blocks, self.bases, self.spectrum(), strict=True):
            turned = basis.to_basis(block.take(V))
            block.put(basis.from_basis(function(eigenvalues)[:, None] * turned), found)
        return found


def fit_ekfac(
    objective: Objective, train: Rows, *, seed: int = 0, memory_bytes: int = 2**30, progress: Progress = silent
) -> EKFAC:
    """Return EK-FAC of an objective over its training data, in two passes.

    Args:
        objective: at its registered weights.
        train: the n rows.
        seed: of the vectors that are drawn where there are more than 32 outputs.
        memory_bytes: budget of the intermediate values of a block; half of it keeps gradients for the second pass.
        progress: told after each block.
    """
    fit = _Fit(objective, train, seed, memory_bytes, progress)
    blocks = objective.taps.blocks
    totals = [Moments(block) for block in blocks]
    for batch, gradients in fit.gradients("covariances"):
        for block, total, parts in zip(blocks, totals, gradients, strict=True):
            total.add(moments(block, parts, batch.weights))
    found = [total.basis(objective.theta.dtype) for total in totals]
    squares: list[Tensor | None] = [known for _, known in found]
    for _, gradients in fit.gradients("eigenvalues"):
        for at, ((basis, known), parts) in enumerate(zip(found, gradients, strict=True)):
            if known is None:
                own = _squares(basis, parts).double()
                squares[at] = own if squares[at] is None else squares[at] + own
    eigenvalues = tuple((one / len(train)).to(objective.theta.dtype) for one in squares)
    return EKFAC(blocks, tuple(basis for basis, _ in found), eigenvalues)


def _squares(basis: Basis, parts: list[Part]) -> Tensor:
    """Return Σ_i Σ_c (Qᵀ g_ic)², (q,). Inputs that no cotangent changes are turned once.

    Where a row uses the weight once, the sum over c comes before the product.
    """
    first, *others = parts
    turned = basis.rotated(first)
    if not isinstance(turned, Outer) or any(part.inputs is not first.inputs for part in others):
        return sum_of_squares(turned) + sum(sum_of_squares(basis.rotated(part)) for part in others)
    deltas = [turned.deltas, *(part.deltas @ basis.outputs[None] for part in others)]
    if turned.inputs.shape[2] == 1:
        return sum_of_squares(Outer(turned.inputs, sum(one.square() for one in deltas).sqrt()))
    return sum(sum_of_squares(Outer(turned.inputs, one)) for one in deltas)


class _Fit:
    """The gradients of the Gauss–Newton factors of all rows, kept for a second pass as far as memory allows."""

    def __init__(self, objective: Objective, train: Rows, seed: int, memory_bytes: int, progress: Progress) -> None:
        self._objective = objective
        self._train = train
        self._seed = seed
        self._progress = progress
        C = objective.outputs_per_row
        self._exact = is_exact(C, objective.taps.kept_numel)
        numel = objective.taps.kept_numel(C if self._exact else 1)
        self._size = block_rows(objective, memory_bytes // 2, 2 * numel)
        keeps = numel * objective.theta.element_size() * len(train) <= memory_bytes // 2
        self._kept: list[tuple[Batch, Gradients]] | None = [] if keeps else None
        self._is_full = False

    def gradients(self, stage: str) -> Iterator[tuple[Batch, Gradients]]:
        """Yield the rows, and of each block their gradients for every cotangent."""
        done = 0
        for batch, gradients in self._kept if self._is_full else self._made():
            yield batch, gradients
            done += len(batch.index)
            self._progress(stage, done, len(self._train))
        self._is_full = self._kept is not None

    def _made(self) -> Iterator[tuple[Batch, Gradients]]:
        for batch, gradients in each_block(self._objective, self._train, self._size, self._work):
            if self._kept is not None:
                self._kept.append((batch, gradients))
            yield batch, gradients

    def _work(self, batch: Batch) -> Gradients:
        capture = self._objective.taps.capture(batch.inputs)
        vectors = cotangents(self._objective.loss, capture.outputs, batch, self._seed, exact=self._exact)
        by_cotangent = [capture.parts(cotangent) for cotangent in vectors]
        return [list(parts) for parts in zip(*by_cotangent, strict=True)]
