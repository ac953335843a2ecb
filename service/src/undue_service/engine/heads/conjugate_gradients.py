"""Preconditioned conjugate gradients for K heads, each with a matrix of its own (Nocedal & Wright 2006, algorithm 5.3).

Each iteration is one product for all, until the last has reached its goal.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""V (d, K, C) → H_k V_k."""
Preconditioner = Callable[[Tensor], Tensor]
"""V (d, K, C) → M⁻¹ V_k."""


def conjugate_gradients(
    product: Product, right: Tensor, precondition: Preconditioner, goals: Tensor, most: int
) -> tuple[Tensor, Tensor, int]:
    """Return approximate H_k⁻¹ b_k, (d, K, C), the norms of their residuals, (K,), and how many products it took.

    Args:
        product: with the matrices.
        right: b, (d, K, C).
        precondition: by an inverse near theirs.
        goals: norms of the residuals that are near enough, (K,). One is missed where the products do not suffice, or
            rounding lets a direction seem to have no curvature.
        most: products.
    """
    found, residual = torch.zeros_like(right), right
    z = precondition(residual)
    direction, rho = z, dot(residual, z)
    products = 0
    open_ = norm(residual) > goals
    while bool(open_.any()) and products < most:
        pushed = product(direction)
        products += 1
        curvature = dot(direction, pushed)
        open_ &= (curvature > 0) & (rho > 0)
        alpha = torch.where(open_, rho / curvature.where(open_, 1), 0)[:, None]
        found, residual = found + alpha * direction, residual - alpha * pushed
        z = precondition(residual)
        before, rho = rho, dot(residual, z)
        direction = z + (rho / before.where(before > 0, 1))[:, None] * direction
        open_ &= norm(residual) > goals
    return found, norm(residual), products


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of K heads (d, K, C): (K,)."""
    return (a * b).sum(dim=(0, 2))


def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norms of K heads (d, K, C): (K,)."""
    return dot(a, a).sqrt()
