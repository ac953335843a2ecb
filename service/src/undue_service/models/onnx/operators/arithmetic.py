"""Elementwise arithmetic with NumPy's broadcasting, on data and on shapes."""

import operator
from collections.abc import Callable
from functools import reduce

import torch

from undue_service.models.onnx.values import Integer, Node, Shape, Value
from undue_service.models.refusals import malformed


def _binary(of_integers: Callable[[Integer, Integer], Integer], of_tensors: Callable[..., torch.Tensor]) -> Callable:
    def compute(node: Node) -> Value:
        a, b = node.value(0), node.value(1)
        if isinstance(a, Shape) and isinstance(b, Shape):
            return combine(node, a, b, of_integers)
        return of_tensors(node.tensor(0), node.tensor(1))

    return compute


def combine(node: Node, a: Shape, b: Shape, compute: Callable[[Integer, Integer], Integer]) -> Shape:
    """Return shapes combined element by element; a single size goes with each element of the other."""
    count = max(len(a.values), len(b.values))
    if not all(len(one.values) in (1, count) for one in (a, b)):
        raise malformed(f"{node} combines {len(a.values)} with {len(b.values)} sizes")
    left, right = (one.values * (count if len(one.values) == 1 else 1) for one in (a, b))
    values = tuple(compute(x, y) for x, y in zip(left, right, strict=True))
    return Shape(values, is_scalar=a.is_scalar and b.is_scalar)


def _quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def _unary(compute: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    return lambda node: compute(node.tensor(0))


def _variadic(compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable:
    return lambda node: reduce(compute, (node.tensor(index) for index in range(len(node.inputs))))


subtract = _binary(operator.sub, torch.sub)
multiply = _binary(operator.mul, torch.mul)
divide = _binary(operator.floordiv, _quotient)
maximum, minimum = _variadic(torch.maximum), _variadic(torch.minimum)
square_root, exponential, logarithm = _unary(torch.sqrt), _unary(torch.exp), _unary(torch.log)
negative, absolute, reciprocal = _unary(torch.neg), _unary(torch.abs), _unary(torch.reciprocal)
error_function = _unary(torch.erf)


def power(node: Node) -> torch.Tensor:
    """Y = X^E. The result has the type of X, whatever the exponent's."""
    x, exponent = node.tensor(0), node.operand(1)
    return torch.pow(x, exponent).to(x.dtype)


def clip(node: Node) -> torch.Tensor:
    """Y = min(max(X, low), high); the bounds are attributes before opset 11 and optional inputs from then on."""
    x = node.tensor(0)
    if node.opset < 11:
        low: torch.Tensor | float | None = node.attribute("min", -torch.inf)
        high: torch.Tensor | float | None = node.attribute("max", torch.inf)
    else:
        low, high = node.optional(1), node.optional(2)
    if low is None and high is None:
        return x
    low, high = (None if bound is None else torch.as_tensor(bound, dtype=x.dtype) for bound in (low, high))
    return torch.clamp(x, low, high)
