"""Lanczos (1950) with full orthogonalisation: what is known of a spectrum from products alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.curvature import Curvature

from .refusals import refuse_not_finite

_STEPS = 40


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The extreme Ritz values of a curvature, which lie inside its spectrum."""

    smallest: float
    largest: float
    uncertainty: float
    """An eigenvalue lies within this of `largest`."""


def ritz_range(curvature: Curvature, start: Tensor) -> tuple[float, float]:
    """Return the extreme eigenvalues of A on the Krylov space of `start` (P,), which lie inside A's own and near them.

    At most 40 products.
    """
    found = spectrum(curvature, start)
    return found.smallest, found.largest


def spectrum(curvature: Curvature, start: Tensor, steps: int = _STEPS) -> Spectrum:
    """Return what at most `steps` products say of A's spectrum, from a start (P,).

    Raises:
        FailedPrecondition: NON_FINITE_RESULT where a product is not finite.
    """
    V = (start / start.norm())[:, None]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(min(steps, curvature.dim)):
        w = curvature.matmat(V[:, -1:])[:, 0]
        if not bool(torch.isfinite(w).all()):
            refuse_not_finite("a product with the Hessian")
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
    values, vectors = torch.linalg.eigh(T)
    return Spectrum(float(values[0]), float(values[-1]), float((beside[-1] * vectors[-1, -1]).abs()))
