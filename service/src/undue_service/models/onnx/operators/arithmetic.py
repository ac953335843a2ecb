"""Elementwise arithmetic with NumPy's broadcasting, on data and on shapes."""

import math
import operator
from collections.abc import Callable
from functools import reduce

import numpy as np
import torch

from undue_service.models.onnx.values import Integer, Node, Operator, Shape, Value
from undue_service.models.refusals import malformed

from .unsigned import choosing, comparing, is_wide, modular, quotient

_MAX_INTEGERS = 2**14
_MAX_EXPONENT = 64


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

    The result has the type of the last input unless one is given, and wraps around where that does.
    """
    shapes = [node.integers(index) for index in range(len(node.inputs))]
    arrays = np.broadcast_arrays(*(shape.array for shape in shapes))
    together = zip(*(array.reshape(-1) for array in arrays), strict=True)
    wanted = dtype or shapes[-1].dtype
    return Shape.of([_wrapped(compute(*values), wanted) for values in together], arrays[0].shape, wanted)


def _wrapped(number: Integer, dtype: torch.dtype) -> Integer:
    if dtype == torch.bool or not isinstance(number, int):
        return number
    least = torch.iinfo(dtype).min
    return (number - least) % 2 ** torch.iinfo(dtype).bits + least


def are_shapes(node: Node) -> bool:
    """Return whether a node computes with shapes alone, and few numbers: many are computed as a tensor."""
    arrays = [value.array for value in node.inputs if isinstance(value, Shape)]
    return len(arrays) == len(node.inputs) and math.prod(_together(arrays)) <= _MAX_INTEGERS


def _together(arrays: list[np.ndarray]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError as error:
        raise malformed(f"the shapes {[array.shape for array in arrays]} cannot be broadcast") from error


def _whole_quotient(a: Integer, b: Integer) -> Integer:
    """Round towards zero, as ONNX does; sizes are not negative."""
    if isinstance(a, int) and isinstance(b, int) and (a < 0) != (b < 0):
        return -(-a // b)
    return a // b


def _quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if is_wide(a, b):
        return quotient(a, b)
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def _magnitude(x: torch.Tensor) -> torch.Tensor:
    return torch.abs(x) if x.dtype.is_signed else x


def of_each(
    compute: Callable[[torch.Tensor], torch.Tensor], of_integer: Callable[[Integer], Integer] | None = None
) -> Operator:
    """Return the operator that computes a function of each element."""

    def operator_(node: Node) -> Value:
        if of_integer is not None and are_shapes(node):
            return combine(node, of_integer)
        return compute(node.tensor(0))

    return operator_


def _variadic(
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    of_integers: Callable[[Integer, Integer], Integer] | None = None,
) -> Operator:
    def operator_(node: Node) -> Value:
        if of_integers is not None and are_shapes(node):
            return combine(node, lambda *values: reduce(of_integers, values))
        return reduce(compute, (node.tensor(index) for index in range(len(node.inputs))))

    return operator_


def _comparison(compute: Callable) -> Operator:
    return _binary(lambda a, b: int(bool(compute(a, b))), comparing(compute), torch.bool)


def where(node: Node) -> Value:
    """Y = A where the condition holds, else B."""
    if are_shapes(node):
        return combine(node, lambda condition, a, b: a if condition else b)
    return torch.where(node.tensor(0).to(torch.bool), node.tensor(1), node.tensor(2))


subtract = _binary(operator.sub, modular(torch.sub))
multiply = _binary(operator.mul, modular(torch.mul))
divide = _binary(_whole_quotient, _quotient)
equal = _comparison(operator.eq)
greater, greater_or_equal = _comparison(operator.gt), _comparison(operator.ge)
less, less_or_equal = _comparison(operator.lt), _comparison(operator.le)
maximum = _variadic(choosing(torch.maximum), torch.sym_max)
minimum = _variadic(choosing(torch.minimum), torch.sym_min)
total = _variadic(torch.add)
square_root, exponential, logarithm = of_each(torch.sqrt), of_each(torch.exp), of_each(torch.log)
negative, absolute = of_each(torch.neg, operator.neg), of_each(_magnitude, abs)
reciprocal, error_function = of_each(torch.reciprocal), of_each(torch.erf)


def mean(node: Node) -> torch.Tensor:
    """Y = the mean of the inputs, element by element, with broadcasting."""
    return reduce(torch.add, (node.tensor(index) for index in range(len(node.inputs)))) / len(node.inputs)


def power(node: Node) -> Value:
    """Y = X^E. The result has the type of X, whatever the exponent's."""
    if are_shapes(node) and all(isinstance(e, int) and 0 <= e < _MAX_EXPONENT for e in node.integers(1).values):
        return combine(node, operator.pow, node.integers(0).dtype)
    x, exponent = node.tensor(0), node.operand(1)
    if isinstance(exponent, torch.Tensor) and is_wide(exponent):
        exponent = exponent.to(x.dtype)
    return torch.pow(x, exponent).to(x.dtype)


def clip(node: Node) -> Value:
    """Y = min(max(X, low), high); the bounds are attributes before opset 11 and optional inputs from then on."""
    if len(node.inputs) > 1 and are_shapes(node):
        return combine(node, _bounded, node.integers(0).dtype)
    x = node.tensor(0)
    if node.opset < 11:
        low: torch.Tensor | float | None = node.attribute("min", -torch.inf)
        high: torch.Tensor | float | None = node.attribute("max", torch.inf)
    else:
        low, high = node.optional(1), node.optional(2)
    if low is None and high is None:
        return x
    low, high = (None if bound is None else torch.as_tensor(bound, dtype=x.dtype) for bound in (low, high))
    if is_wide(x):
        raised = x if low is None else choosing(torch.maximum)(x, low)
        return raised if high is None else choosing(torch.minimum)(raised, high)
    return torch.clamp(x, low, high)


def _bounded(number: Integer, low: Integer, high: Integer | None = None) -> Integer:
    raised = torch.sym_max(number, low)
    return raised if high is None else torch.sym_min(raised, high)
