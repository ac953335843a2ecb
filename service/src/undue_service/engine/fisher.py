"""Factors of the loss's curvature in the outputs, Σ_i = ∂²ℓ/∂f² = M_i M_iᵀ: what Gauss–Newton curvature is made of.

J_iᵀ M_i are C vectors for each row whose outer products sum up to the row's Gauss–Newton matrix, which for all losses
but the smooth hinge is its exact Fisher (Martens 2020, section 9). One random combination of them, with the identity
for a covariance, has the same expectation: a sampled label's gradient, for the cross-entropy.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .data import Batch
from .losses import CrossEntropy, Loss

EXACT_UP_TO = 32
"""Outputs up to which each row contributes one vector for every output; beyond, one random vector."""
EXACT_NUMEL = 2**20
"""Numbers that these vectors make of a row at most, in the gradients of all taps; beyond, one random vector too."""


def root(loss: Loss, f: Tensor, y: Tensor) -> Tensor:
    """Return M of outputs f (B, C), (B, C, C): √p_c (e_c − p) are its columns for the cross-entropy."""
    if isinstance(loss, CrossEntropy):
        p = torch.softmax(f, dim=1)
        return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
    S = loss.curvature(f, y)
    diagonal = S.diagonal(dim1=1, dim2=2)
    if bool((torch.diag_embed(diagonal) == S).all()):
        return torch.diag_embed(diagonal.clamp_min(0).sqrt())
    values, vectors = torch.linalg.eigh(S)
    return vectors * values.clamp_min(0).sqrt()[:, None, :]


def is_exact(outputs: int, kept_numel: Callable[[int], int]) -> bool:
    """Return whether each row of a model contributes a vector for every output.

    Args:
        outputs: C.
        kept_numel: (count) → the numbers that the gradients of a row take for so many vectors.
    """
    return outputs <= EXACT_UP_TO and kept_numel(outputs) - kept_numel(0) <= EXACT_NUMEL


def cotangents(loss: Loss, f: Tensor, batch: Batch, seed: int, *, exact: bool | None = None) -> Iterator[Tensor]:
    """Yield vectors c, (B, C) each, with E Σ c cᵀ = w_i Σ_i for every row.

    Args:
        loss: ℓ.
        f: outputs, (B, C).
        batch: gives w_i, and the rows' numbers, on which alone what is drawn depends.
        seed: of the draws.
        exact: whether there is one for every output; None where there are up to 32.
    """
    C = f.shape[1]
    scale = 1.0 if batch.weights is None else batch.weights.sqrt()[:, None]
    if C == 1 or (C <= EXACT_UP_TO if exact is None else exact):
        M = root(loss, f, batch.targets)
        yield from (M[:, :, c] * scale for c in range(C))
    elif isinstance(loss, CrossEntropy):
        p = torch.softmax(f, dim=1)
        drawn = uniform(batch.index, 1, seed).to(f)
        y = (p.cumsum(dim=1) < drawn * p.sum(dim=1, keepdim=True)).sum(dim=1).clamp_max(C - 1)
        yield (torch.nn.functional.one_hot(y, C) - p) * scale
    else:
        signs = torch.where(uniform(batch.index, C, seed) < 0.5, -1.0, 1.0).to(f)
        yield torch.bmm(root(loss, f, batch.targets), signs[:, :, None])[:, :, 0] * scale


def uniform(index: Tensor, columns: int, seed: int) -> Tensor:
    """Return numbers in [0, 1), (B, columns) float64, that only the row's number and the seed decide: SplitMix64."""
    at = index[:, None] * columns + torch.arange(columns, device=index.device)
    offset = (seed * 0x5851F42D4C957F2D + 2**63) % 2**64 - 2**63
    state = (at + 1) * -7046029254386353131 + offset
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ _shifted(state, shift)) * factor
    return _shifted(state ^ _shifted(state, 31), 11).double() / 2**53


def _shifted(state: Tensor, by: int) -> Tensor:
    """Return a logical shift to the right of int64."""
    return (state >> by) & ((1 << (64 - by)) - 1)
