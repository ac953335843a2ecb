"""Rounding, the sign, and what is left of a division. Their derivatives are zero, or one, wherever they exist."""

import math

import torch

from undue_service.models.onnx.values import Integer, Node, Operator, Value

from .arithmetic import are_shapes, combine, of_each
from .unsigned import is_wide, remainder


def _rounding(compute) -> Operator:
    return of_each(lambda x: compute(x) if x.is_floating_point() else x, lambda number: number)


ceiling, floor = _rounding(torch.ceil), _rounding(torch.floor)
half_to_even = _rounding(torch.round)


def _sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


sign = of_each(_sign, lambda number: (number > 0) - (number < 0))


def modulo(node: Node) -> Value:
    """Y = A − B ⌊A / B⌋, of the sign of B; with `fmod` the quotient is rounded towards zero, Y has the sign of A."""
    truncates = bool(node.attribute("fmod", 0))
    if are_shapes(node):
        return combine(node, _truncated if truncates else _floored)
    a, b = node.tensor(0), node.tensor(1)
    if is_wide(a, b):
        return remainder(a, b)
    return torch.fmod(a, b) if truncates else torch.remainder(a, b)


def _floored(a: Integer, b: Integer) -> Integer:
    return a % b


def _truncated(a: Integer, b: Integer) -> Integer:
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(1, a)) * (abs(a) % abs(b))
    return a % b
