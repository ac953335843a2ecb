"""Elementwise activations, and Softmax."""

import math

import torch

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import unsupported


def relu(node: Node) -> torch.Tensor:
    """Rectify: Y = X where X > 0, else 0."""
    return torch.relu(node.tensor(0))


def tanh(node: Node) -> torch.Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(node.tensor(0))


def sigmoid(node: Node) -> torch.Tensor:
    """Logistic function: Y = 1 / (1 + exp(−X))."""
    return torch.sigmoid(node.tensor(0))


def softmax(node: Node) -> torch.Tensor:
    """Y = exp(X) / Σ exp(X): over one axis, and before opset 13 over all axes from `axis` on."""
    x = node.tensor(0)
    if node.opset >= 13:
        axis = int(node.attribute("axis", -1))
        if axis % x.dim() == 0:
            raise unsupported(f"{node} normalises across the rows; a row's output must not depend on other rows")
        return torch.softmax(x, axis)
    axis = int(node.attribute("axis", 1)) % x.dim()
    if axis == 0:
        raise unsupported(f"{node} normalises across the rows; a row's output must not depend on other rows")
    if axis == x.dim() - 1:
        return torch.softmax(x, axis)
    inner = math.prod(int(size) for size in x.shape[axis:])
    return torch.softmax(x.reshape(*x.shape[:axis], inner), -1).reshape(x.shape)
