"""Operators that compute nothing, or only another type."""

import torch

from undue_service.domain.errors import InvalidArgument
from undue_service.models.limits import MAX_SHAPE_NUMBERS
from undue_service.models.onnx.element_types import to_tensor, torch_type
from undue_service.models.onnx.initializers import constant_value
from undue_service.models.onnx.values import Node, Shape, Text, Value, Weight
from undue_service.models.refusals import unsupported


def identity(node: Node) -> Value:
    """Y = X. A weight stays that weight, so exporters' aliases of tied weights are one parameter."""
    value = node.value(0)
    return value if value is not None else node.tensor(0)


def constant(node: Node) -> Value:
    """Y = what the node holds. Those of the main graph were registered before it runs; a definition's were not."""
    value = constant_value(node.proto.attribute, node.proto.output[0])
    if value.dtype.kind in "OU":
        return Text(value)
    if value.dtype.kind in "iub" and value.ndim <= 1 and value.size <= MAX_SHAPE_NUMBERS:
        return Shape.from_numpy(value)
    return to_tensor(value, str(node))


def dropout(node: Node) -> Value | tuple[Value | None, ...]:
    """Y = X: in inference, or at a ratio of 0, nothing is dropped. The second output is the mask: all true."""
    mode, training = node.value(2), False
    if mode is not None:
        training = not (isinstance(mode, Shape) and mode.number == 0) and node.flag(2)
    if training and not _drops_nothing(node):
        raise unsupported(f"{node} is in training mode; call model.eval() before the export")
    y = identity(node)
    if len(node.proto.output) < 2 or not node.proto.output[1]:
        return y
    return y, torch.ones_like(node.tensor(0), dtype=torch.bool)


def _drops_nothing(node: Node) -> bool:
    """Whether the ratio is known to be 0."""
    if node.value(1) is None:
        return False
    try:
        return not any(node.floats(1))
    except InvalidArgument:  # it is not known before the graph is run
        return False


def cast(node: Node) -> Value:
    """Y = X as another type. Floating-point numbers round towards zero where they become integers."""
    return _converted(node, torch_type(int(node.attribute("to", 0)), f"{node} converts to"))


def cast_like(node: Node) -> Value:
    """Y = X as the type of another value."""
    like = node.value(1)
    return _converted(node, like.dtype if isinstance(like, Shape) else node.tensor(1).dtype)


def _converted(node: Node, dtype: torch.dtype) -> Value:
    value = node.value(0)
    if isinstance(value, Shape) and not (dtype.is_floating_point or dtype.is_complex):
        return _converted_shape(value, dtype)
    if isinstance(value, Weight) and value.stored.dtype == dtype:
        return value
    return node.tensor(0).to(dtype)


def _converted_shape(value: Shape, dtype: torch.dtype) -> Shape:
    """Keep the low bits, as in C; the number of rows fits any integer type that a graph computes shapes in."""
    if dtype == value.dtype:
        return value
    if dtype == torch.bool:
        return Shape.of((int(bool(number)) for number in value.values), value.array.shape, dtype)
    bits, signed = torch.iinfo(dtype).bits, torch.iinfo(dtype).min < 0
    half = 1 << (bits - 1) if signed else 0
    wrapped = ((n + half) % (1 << bits) - half if isinstance(n, int) else n for n in value.values)
    return Shape.of(wrapped, value.array.shape, dtype)
