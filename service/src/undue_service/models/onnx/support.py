"""Which nodes can be read, decided over the whole graph before anything runs, so that all others are named at once."""

import onnx

from undue_service.models.refusals import unsupported_operators

from .operators import OPERATORS, SHAPE_OPERATORS

_OF_A_WEIGHT = ("Identity", "Reshape", "Transpose")
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def require_supported(graph: onnx.GraphProto) -> None:
    """Refuse a graph with nodes outside the table of operators.

    Operators of shape arithmetic (how exporters write `x.view(len(x), -1)`) are read only where they compute a shape,
    and a Transpose only where it turns a weight.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    weights = {tensor.name for tensor in graph.initializer}
    shapes = {t.name for t in graph.initializer if t.data_type in _INTEGERS and len(t.dims) <= 1}
    refused = set()
    for node in graph.node:
        if not _is_supported(node, weights, shapes):
            refused.add(_qualified(node))
        inputs = [name for name in node.input if name]
        is_integer = node.op_type == "Constant" and _is_integer_constant(node)
        if node.op_type == "Shape" or is_integer or (inputs and all(name in shapes for name in inputs)):
            shapes.update(node.output)
        if node.op_type == "Constant" or (node.op_type in _OF_A_WEIGHT and weights.issuperset(inputs[:1])):
            weights.update(node.output)
    if refused:
        raise unsupported_operators(refused, f"supported are {', '.join(sorted(OPERATORS))}")


def _qualified(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _is_integer_constant(node: onnx.NodeProto) -> bool:
    names = {a.name: a for a in node.attribute}
    if "value" in names:
        return names["value"].t.data_type in _INTEGERS and len(names["value"].t.dims) <= 1
    return "value_int" in names or "value_ints" in names


def _is_supported(node: onnx.NodeProto, weights: set[str], shapes: set[str]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in OPERATORS or node.op_type == "Shape":
        return True
    if node.op_type == "Transpose":
        return weights.issuperset(node.input)
    return node.op_type in SHAPE_OPERATORS and shapes.issuperset(name for name in node.input if name)
