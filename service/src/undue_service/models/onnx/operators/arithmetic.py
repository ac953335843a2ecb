"""Elementwise arithmetic with NumPy's broadcasting, on data and on shapes."""

import operator
from collections.abc import Callable
from functools import reduce

import numpy as np
import torch

from undue_service.models.onnx.values import Integer, Node, Operator, Shape, Value


def _binary(
    of_integers: Callable[[Integer, Integer], Integer],
    of_tensors: Callable[..., torch.Tensor],
    dtype: torch.dtype | None = None,
) -> Operator:
    def compute(node: Node) -> Value:
        if are_shapes(node):
            return combine(node, of_integers, dtype)
        return of_tensors(node.tensor(0), node.tensor(1))

    return compute


def combine(node: Node, compute: Callable[..., Integer], dtype: torch.dtype | None = None) -> Shape:
    """Return the inputs, all of them shapes, combined element by element with broadcasting.

    The result has the type of the last input unless one is given.
    """
    shapes = [node.integers(index) for index in range(len(node.inputs))]
    arrays = np.broadcast_arrays(*(shape.array for shape in shapes))
    together = zip(*(array.reshape(-1) for array in arrays), strict=True)
    return Shape.of([compute(*values) for values in together], arrays[0].shape, dtype or shapes[-1].dtype)


def are_shapes(node: Node) -> bool:
    """Return whether a node computes with shapes alone."""
    return all(isinstance(value, Shape) for value in node.inputs)


def _whole_quotient(a: Integer, b: Integer) -> Integer:
    """Round towards zero, as ONNX does; sizes are not negative."""
    if isinstance(a, int) and isinstance(b, int) and (a < 0) != (b < 0):
        return -(-a // b)
    return a // b


def _quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def _unary(compute: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return lambda node: compute(node.tensor(0))


def _variadic(compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    return lambda node: reduce(compute, (node.tensor(index) for index in range(len(node.inputs))))


def _comparison(compute: Callable) -> Operator:
    return _binary(lambda a, b: int(bool(compute(a, b))), compute, torch.bool)


def where(node: Node) -> Value:
    """Y = A where the condition holds, else B."""
    if are_shapes(node):
        return combine(node, lambda condition, a, b: a if condition else b)
    return torch.where(node.tensor(0).to(torch.bool), node.tensor(1), node.tensor(2))


subtract = _binary(operator.sub, torch.sub)
multiply = _binary(operator.mul, torch.mul)
divide = _binary(_whole_quotient, _quotient)
equal = _comparison(operator.eq)
greater, greater_or_equal = _comparison(operator.gt), _comparison(operator.ge)
less, less_or_equal = _comparison(operator.lt), _comparison(operator.le)
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
