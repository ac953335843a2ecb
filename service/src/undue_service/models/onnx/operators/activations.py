"""Elementwise activations, Softmax and LogSoftmax."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed


def relu(node: Node) -> torch.Tensor:
    """Rectify: Y = X where X > 0, else 0."""
    return torch.relu(node.tensor(0))


def tanh(node: Node) -> torch.Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(node.tensor(0))


def sigmoid(node: Node) -> torch.Tensor:
    """Logistic function: Y = 1 / (1 + exp(−X))."""
    return torch.sigmoid(node.tensor(0))


def leaky_relu(node: Node) -> torch.Tensor:
    """Y = X where X ≥ 0, else α X."""
    return functional.leaky_relu(node.tensor(0), float(node.attribute("alpha", 0.01)))


def parametric_relu(node: Node) -> torch.Tensor:
    """Y = X where X ≥ 0, else S X; the slope S is broadcast from the last axis on, before opset 7 it is per channel."""
    x, slope = node.tensor(0), node.tensor(1)
    if node.opset < 7 and slope.numel() > 1:
        slope = slope.reshape(-1, *(1 for _ in x.shape[2:]))
    return torch.where(x >= 0, x, slope * x)


def elu(node: Node) -> torch.Tensor:
    """Y = X where X ≥ 0, else α (exp(X) − 1)."""
    return functional.elu(node.tensor(0), float(node.attribute("alpha", 1.0)))


def softplus(node: Node) -> torch.Tensor:
    """Y = log(1 + exp(X))."""
    return functional.softplus(node.tensor(0))


def gelu(node: Node) -> torch.Tensor:
    """Y = X Φ(X), Φ the normal distribution or its approximation by tanh (Hendrycks & Gimpel 2016)."""
    return functional.gelu(node.tensor(0), approximate=node.text("approximate", "none"))


def hard_sigmoid(node: Node) -> torch.Tensor:
    """Y = min(max(α X + β, 0), 1)."""
    alpha, beta = float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5))
    return torch.clamp(alpha * node.tensor(0) + beta, 0.0, 1.0)


def hard_swish(node: Node) -> torch.Tensor:
    """Y = X · min(max(X/6 + 1/2, 0), 1)."""
    return functional.hardswish(node.tensor(0))


def scaled_elu(node: Node) -> torch.Tensor:
    """Y = γ X where X > 0, else γ α (exp(X) − 1) (Klambauer et al. 2017)."""
    alpha = float(node.attribute("alpha", 1.67326319217681884765625))
    gamma = float(node.attribute("gamma", 1.05070102214813232421875))
    return gamma * functional.elu(node.tensor(0), alpha)


def continuous_elu(node: Node) -> torch.Tensor:
    """Y = max(0, X) + min(0, α (exp(X/α) − 1)) (Barron 2017)."""
    return functional.celu(node.tensor(0), float(node.attribute("alpha", 1.0)))


def mish(node: Node) -> torch.Tensor:
    """Y = X tanh(log(1 + exp(X))) (Misra 2019)."""
    x = node.tensor(0)
    return x * torch.tanh(functional.softplus(x))


def softsign(node: Node) -> torch.Tensor:
    """Y = X / (1 + |X|)."""
    return functional.softsign(node.tensor(0))


def shrink(node: Node) -> torch.Tensor:
    """Y = X + bias where X < −λ, X − bias where X > λ, else 0."""
    x, bias, bound = node.tensor(0), float(node.attribute("bias", 0.0)), float(node.attribute("lambd", 0.5))
    moved = torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))
    return moved.to(x.dtype)


def thresholded_relu(node: Node) -> torch.Tensor:
    """Y = X where X > α, else 0."""
    x = node.tensor(0)
    return torch.where(x > float(node.attribute("alpha", 1.0)), x, torch.zeros_like(x))


def swish(node: Node) -> torch.Tensor:
    """Y = X / (1 + exp(−α X)) (Ramachandran et al. 2017)."""
    return _swish(node.tensor(0), float(node.attribute("alpha", 1.0)))


def swish_glu(node: Node) -> torch.Tensor:
    """Y = Swish(A) B, of two values of one shape (Shazeer 2020)."""
    gate, linear = node.tensor(0), node.tensor(1)
    if gate.shape != linear.shape:
        raise malformed(f"{node} multiplies {tuple(gate.shape)} by {tuple(linear.shape)}; the shapes must be the same")
    return _swish(gate, float(node.attribute("alpha", 1.0))) * linear


def _swish(x: torch.Tensor, alpha: float) -> torch.Tensor:
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def softmax(node: Node) -> torch.Tensor:
    """Y = exp(X) / Σ exp(X): over one axis, and before opset 13 over all axes from `axis` on."""
    return _normalised(node, torch.softmax)


def log_softmax(node: Node) -> torch.Tensor:
    """Y = X − log Σ exp(X), over the axes of Softmax."""
    return _normalised(node, torch.log_softmax)


def _normalised(node: Node, normalise: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
    x = node.tensor(0)
    axis = node.axis(int(node.attribute("axis", -1 if node.opset >= 13 else 1)), x.dim())
    axes = [axis] if node.opset >= 13 else range(axis, x.dim())
    node.keep_rows_apart(x, axes, "normalises across the rows")
    if len(axes) == 1:
        return normalise(x, axis)
    inner = math.prod(int(size) for size in x.shape[axis:])
    return normalise(x.reshape(*x.shape[:axis], inner), -1).reshape(x.shape)
