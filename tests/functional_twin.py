"""Influence scores of a plain function, by torch.func in float64: what an imported model is held to."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.func import grad, jacrev, vmap

Weights = Mapping[str, torch.Tensor]
Function = Callable[[Weights, torch.Tensor], torch.Tensor]
"""(weights, one row without a batch axis) → outputs (C,)."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs (C,), one target) → a number."""


class Twin:
    """A function and its loss at some weights, over `train` rows first and test rows after them."""

    def __init__(self, f: Function, loss: Loss, weights: Weights, x: torch.Tensor, y: torch.Tensor, train: int) -> None:
        self.f, self.loss, self.train = f, loss, train
        self.weights = {name: tensor.detach().double() for name, tensor in weights.items()}
        self.x, self.y = x.double() if x.is_floating_point() else x, y
        of_row = vmap(grad(lambda w, x, y: loss(f(w, x), y)), (None, 0, 0))
        self.gradients = self._flat(of_row(self.weights, self.x, self.y))

    def _flat(self, found: Weights, lead: int = 1) -> torch.Tensor:
        return torch.cat([value.flatten(lead) for value in found.values()], lead)

    @property
    def outputs(self) -> torch.Tensor:
        """f of every row, (rows, C)."""
        return vmap(self.f, (None, 0))(self.weights, self.x)

    @property
    def grad_dot(self) -> np.ndarray:
        """g_t · g_i / n, (test, train)."""
        return (self.gradients[self.train :] @ self.gradients[: self.train].T / self.train).numpy()

    def gauss_newton(self, damping: float) -> np.ndarray:
        """g_t · (G + damping)⁻¹ g_i / n, G = (1/n) Σ JᵀSJ, S the loss's second derivative in the outputs.

        Args:
            damping: λ, the strength of the L2 term included.
        """
        x, y, n = self.x[: self.train], self.y[: self.train], self.train
        J = self._flat(vmap(jacrev(self.f), (None, 0))(self.weights, x), 2)
        values, vectors = torch.linalg.eigh(vmap(jacrev(grad(self.loss)), (0, 0))(self.outputs[:n], y))
        A = ((vectors * values.clamp(min=0).sqrt()[:, None]).mT @ J).flatten(0, 1)  # nG = AᵀA
        small = n * damping * torch.eye(len(A), dtype=torch.float64) + A @ A.T
        g, h = self.gradients[self.train :], self.gradients[:n]
        solved = (g @ h.T - (g @ A.T) @ torch.linalg.solve(small, A @ h.T)) / damping
        return (solved / n).numpy()


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return max|a − b| / max|b|."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
