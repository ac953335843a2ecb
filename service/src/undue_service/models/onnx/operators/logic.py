"""Logic on truth values, and what tells finite numbers from others."""

from collections.abc import Callable

import torch

from undue_service.models.onnx.values import Node, Operator, Value

from .arithmetic import are_shapes, combine


def _logical(of_flags: Callable[..., bool], of_tensors: Callable[..., torch.Tensor], operands: int) -> Operator:
    def compute(node: Node) -> Value:
        if are_shapes(node):
            return combine(node, lambda *flags: int(of_flags(*map(bool, flags))), torch.bool)
        return of_tensors(*(node.tensor(index).to(torch.bool) for index in range(operands)))

    return compute


both = _logical(lambda a, b: a and b, torch.logical_and, 2)
either = _logical(lambda a, b: a or b, torch.logical_or, 2)
exactly_one = _logical(lambda a, b: a != b, torch.logical_xor, 2)
negation = _logical(lambda a: not a, torch.logical_not, 1)


def is_nan(node: Node) -> torch.Tensor:
    """Y = whether X is not a number."""
    return torch.isnan(node.tensor(0))


def is_infinite(node: Node) -> torch.Tensor:
    """Y = whether X is infinite, of the signs that `detect_positive` and `detect_negative` name."""
    x = node.tensor(0)
    positive = torch.isposinf(x) if node.attribute("detect_positive", 1) else torch.zeros_like(x, dtype=torch.bool)
    return positive | torch.isneginf(x) if node.attribute("detect_negative", 1) else positive
