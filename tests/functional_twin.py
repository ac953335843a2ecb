"""Influence scores of a model written as a plain function, by torch.func in float64: what an imported model is held to."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.func import grad, jacrev, jvp, vmap

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

    def solved(self, curvature: torch.Tensor, damping: float) -> np.ndarray:
        """g_t · (curvature + damping)⁻¹ g_i / n."""
        damped = curvature + damping * torch.eye(len(curvature), dtype=torch.float64)
        solved = torch.linalg.solve(damped, self.gradients[: self.train].T)
        return (self.gradients[self.train :] @ solved / self.train).numpy()

    def hessian(self, l2: float) -> torch.Tensor:
        """The Hessian of the mean loss and the L2 term over all weights."""
        names, shapes = list(self.weights), [tensor.shape for tensor in self.weights.values()]

        def risk(theta: torch.Tensor) -> torch.Tensor:
            parts = torch.split(theta, [shape.numel() for shape in shapes])
            weights = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
            losses = vmap(lambda x, y: self.loss(self.f(weights, x), y))(self.x[: self.train], self.y[: self.train])
            return losses.mean() + l2 / 2 * (theta @ theta)

        theta = torch.cat([tensor.flatten() for tensor in self.weights.values()])
        return vmap(lambda v: jvp(grad(risk), (theta,), (v,))[1])(torch.eye(len(theta), dtype=torch.float64))

    def gauss_newton(self, l2: float) -> torch.Tensor:
        """(1/n) Σ JᵀSJ and the L2 term, S the loss's second derivative in the outputs."""
        x, y = self.x[: self.train], self.y[: self.train]
        J = self._flat(vmap(jacrev(self.f), (None, 0))(self.weights, x), 2)
        S = vmap(jacrev(grad(self.loss)), (0, 0))(self.outputs[: self.train], y)
        G = torch.einsum("ncp,ncd,ndq->pq", J, S, J) / self.train
        return G + l2 * torch.eye(len(G), dtype=torch.float64)


def apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return max|a − b| / max|b|."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
