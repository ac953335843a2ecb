"""Operators that compute nothing."""

from undue_service.models.onnx.initializers import constant_value
from undue_service.models.onnx.values import Node, Shape, Value


def identity(node: Node) -> Value:
    """Y = X. A weight stays that weight, so exporters' aliases of tied weights are one parameter."""
    value = node.value(0)
    return value if value is not None else node.tensor(0)


def constant(node: Node) -> Value:
    """Integers of rank 0 or 1. Floating-point constants were registered before the graph is run."""
    value = constant_value(node.proto.attribute, node.proto.output[0])
    return Shape(tuple(int(v) for v in value.reshape(-1)), is_scalar=value.ndim == 0)
