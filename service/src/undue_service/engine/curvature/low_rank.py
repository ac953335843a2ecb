"""1/(Λ + l2 + λ) as a sum of few outer products: a score is then a few pairs of thin products."""

import torch
from torch import Tensor

_FLOOR = 1e-8
"""Of a marginal, as a share of the largest."""


def low_rank(weights: Tensor, eigenvalues: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return U (O, r) and V (I, r) with weights ≈ U Vᵀ, by a singular value decomposition weighted by Λ's marginals.

    A score sees weights_oj times δ̃_o δ̃'_o x̃_j x̃'_j, of which Λ_oj is the size; so the error is weighted by the row and
    column sums of Λ, to the first power. Unweighted, the decomposition spends its rank on directions that no gradient
    has.

    Args:
        weights: 1/(Λ + l2 + λ), (O, I).
        eigenvalues: Λ, (O, I).
        rank: r.
    """
    W, L = weights.double(), eigenvalues.double()
    left, right = (_floored(L.sum(dim=dim)) for dim in (1, 0))
    scaled = left[:, None] * W * right
    tall = scaled if scaled.shape[0] <= scaled.shape[1] else scaled.T
    vectors = torch.linalg.eigh(tall @ tall.T)[1][:, -rank:]
    others = tall.T @ vectors
    U, V = (vectors, others) if tall is scaled else (others, vectors)
    return U / left[:, None], V / right[:, None]


def _floored(marginal: Tensor) -> Tensor:
    largest = marginal.max()
    return (marginal / largest).clamp_min(_FLOOR) if largest > 0 else torch.ones_like(marginal)
