"""Lanczos (1950) with full orthogonalisation: what is known of a spectrum from products alone."""

import torch
from torch import Tensor

from undue_service.engine.curvature import Curvature

_STEPS = 40


def ritz_range(curvature: Curvature, start: Tensor) -> tuple[float, float]:
    """Return the extreme eigenvalues of A on the Krylov space of `start` (P,), which lie inside A's own and near them.

    At most 40 products.
    """
    V = (start / start.norm())[:, None]
    diagonal, beside = [], []
    for _ in range(min(_STEPS, curvature.dim)):
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
