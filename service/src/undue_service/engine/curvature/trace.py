"""The mean eigenvalue, trace(A)/P, of a curvature that is too large to be written down."""

import torch
from torch import Tensor

from .base import Curvature
from .estimate import Estimate

SEED = 0
"""Of the random probes: the same question has the same answer."""
EXACT_UP_TO = 1000
"""P up to which the diagonal itself is read off, by P products: fewer than a few solves take."""
PROBES = 64
"""Each of sketch, range and remainder; 3 × 64 products in all."""


def mean_eigenvalue(curvature: Curvature, like: Tensor) -> Estimate:
    """Return trace(A)/P, exactly for P ≤ 1000, else by Hutch++ (Meyer et al. 2021).

    trace(A) = trace(QᵀAQ) + E gᵀ(I−QQᵀ)A(I−QQᵀ)g for any orthonormal Q and random signs g. With Q the range of A S, S
    random signs, only the part beyond A's 64 leading directions is left to chance; the standard error is that of the
    mean over the 64 probes g.

    Args:
        curvature: A.
        like: a tensor of the dtype and device to work in.
    """
    P = curvature.dim
    if P <= EXACT_UP_TO:
        return Estimate(float(curvature.matmat(torch.eye(P, dtype=like.dtype, device=like.device)).diagonal().mean()))
    generator = torch.Generator().manual_seed(SEED)

    def signs() -> Tensor:
        return torch.randint(2, (P, PROBES), generator=generator).mul_(2).sub_(1).to(like)

    Q = torch.linalg.qr(curvature.matmat(signs()))[0]
    G = signs()
    G = G - Q @ (Q.T @ G)
    known = (Q * curvature.matmat(Q)).sum()
    rest = (G * curvature.matmat(G)).sum(dim=0)
    error = rest.std() / PROBES**0.5
    return Estimate(float(known + rest.mean()) / P, float(error) / P)
