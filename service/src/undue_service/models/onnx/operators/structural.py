"""Operators that compute nothing, or only another type."""

import torch

from undue_service.models.onnx.initializers import FLOATS, INTEGERS, constant_value, element_type
from undue_service.models.onnx.values import Node, Shape, Value, Weight, dense
from undue_service.models.refusals import malformed, unsupported


def identity(node: Node) -> Value:
    """Y = X. A weight stays that weight, so exporters' aliases of tied weights are one parameter."""
    value = node.value(0)
    return value if value is not None else node.tensor(0)


def constant(node: Node) -> Value:
    """Integers of rank 0 or 1. Floating-point constants were registered before the graph is run."""
    value = constant_value(node.proto.attribute, node.proto.output[0])
    return Shape.of(value.reshape(-1).tolist(), value.shape)


def dropout(node: Node) -> Value | tuple[Value | None, ...]:
    """Y = X: in inference, or at a ratio of 0, nothing is dropped. The second output is the mask: all true."""
    mode, training = node.value(2), False
    if mode is not None:
        training = not (isinstance(mode, Shape) and mode.number == 0) and node.flag(2)
    if training and (node.value(1) is None or any(node.floats(1))):
        raise unsupported(f"{node} is in training mode; call model.eval() before the export")
    y = identity(node)
    if len(node.proto.output) < 2 or not node.proto.output[1]:
        return y
    return y, torch.ones_like(node.tensor(0), dtype=torch.bool)


def cast(node: Node) -> Value:
    """Y = X as another type: float32, float64, int64 or int32. Integers round towards zero."""
    code = int(node.attribute("to", 0))
    wanted = {**FLOATS, **INTEGERS}
    if code not in wanted:
        raise unsupported(f"{node} converts to {element_type(code)}; supported are {', '.join(wanted.values())}")
    return _converted(node, getattr(torch, wanted[code]))


def cast_like(node: Node) -> Value:
    """Y = X as the type of another value."""
    like = node.value(1)
    if like is None:
        raise malformed(f"{node} lacks the value whose type it takes")
    return _converted(node, torch.int64 if isinstance(like, Shape) else dense(like).dtype)


def _converted(node: Node, dtype: torch.dtype) -> Value:
    value = node.value(0)
    if isinstance(value, Shape) and not dtype.is_floating_point:
        return value
    if isinstance(value, Weight) and value.stored.dtype == dtype:
        return value
    return node.tensor(0).to(dtype)
