"""K-FAC's covariances and their eigenvectors (Martens & Grosse 2015; Grosse & Martens 2016 for convolutions).

For a block W (O, I) that is used at T positions, the covariances of inputs and output gradients are A = Σ_i w_i Σ_t
x xᵀ and S = Σ_i w_i Σ_t δ δᵀ, δ being the gradients of the Gauss–Newton factors (`fisher.cotangents`). Only their
eigenvectors are used here: the eigenvalues of EK-FAC are measured in that basis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.taps import Block, Lookup, Outer, Part

from .eigenbasis import Basis, DenseBasis, LookupBasis, OuterBasis

DENSE_UP_TO = 512
"""Coefficients of a block without factors up to which its Gauss–Newton matrix is written down; else its diagonal is."""


@dataclass
class Moments:
    """Second moments of a block, added up over rows in float64."""

    block: Block
    inputs: Tensor | None = None
    """A, (G, I, I), of a weight."""
    outputs: Tensor | None = None
    """S, (G, O, O), (E, E); or the Gauss–Newton matrix of a block without factors, (p, p) or its diagonal (p,)."""

    def add(self, found: Sequence[Tensor]) -> None:
        """Add what `of` returned for some rows."""
        *inputs, outputs = (one.double() for one in found)
        self.outputs = outputs if self.outputs is None else self.outputs + outputs
        for one in inputs:
            self.inputs = one if self.inputs is None else self.inputs + one

    def basis(self, dtype: torch.dtype) -> tuple[Basis, Tensor | None]:
        """Return the eigenvectors, found in float64, and the eigenvalues where these are known already."""
        if self.block.kind == "outer":
            return OuterBasis(_eigenvectors(self.outputs).to(dtype), _eigenvectors(self.inputs).to(dtype)), None
        if self.block.kind == "lookup":
            return LookupBasis(_eigenvectors(self.outputs).to(dtype)), None
        if self.outputs.dim() == 1:
            return DenseBasis(None), self.outputs
        values, vectors = torch.linalg.eigh(self.outputs)
        return DenseBasis(vectors.to(dtype)), values.clamp_min(0)


def moments(block: Block, parts: Sequence[Part], weights: Tensor | None) -> list[Tensor]:
    """Return a block's second moments over some rows: those of the inputs, if it has any, then those of the outputs.

    Args:
        block: what the gradients are in.
        parts: the gradients for each cotangent.
        weights: w_i, which the cotangents hold already; the inputs do not.
    """
    first = parts[0]
    if isinstance(first, Outer):
        x = first.inputs if weights is None else first.inputs * weights.sqrt()[:, None, None, None]
        return [_second(x), sum(_second(part.deltas) for part in parts)]
    if isinstance(first, Lookup):
        return [sum(_second(part.deltas[:, None])[0] for part in parts)]
    if block.numel <= DENSE_UP_TO:
        return [sum(part.rows().T @ part.rows() for part in parts)]
    return [sum(part.rows().square().sum(dim=0) for part in parts)]


def _second(values: Tensor) -> Tensor:
    """Return Σ v vᵀ of (B, G, T, N) for each group, (G, N, N)."""
    flat = values.transpose(0, 1).flatten(1, 2)
    return flat.mT @ flat


def _eigenvectors(moment: Tensor) -> Tensor:
    return torch.linalg.eigh(moment)[1]
