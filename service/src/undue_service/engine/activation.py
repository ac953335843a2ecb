"""The softmax or sigmoid that ends a model, and what passes a tensor's elements on as they are."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import fx

from .graph import Graph, argument, aten

Activation = Literal["", "softmax", "log_softmax", "sigmoid"]

_SOFTMAX: Mapping[Any, Activation] = {aten.softmax.int: "softmax", aten._softmax.default: "softmax"}
_LOG_SOFTMAX: Mapping[Any, Activation] = {aten.log_softmax.int: "log_softmax", aten._log_softmax.default: "log_softmax"}
_SAME_VALUES = frozenset(
    {
        aten.to.dtype,
        aten.to.device,
        aten._to_copy.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.alias.default,
    }
)
SAME_ELEMENTS = _SAME_VALUES | {
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.unsqueeze.default,
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
}
"""Operators that hand on their input's elements in order, whatever the shape."""


def final_activation(graph: Graph) -> tuple[Activation, tuple[fx.Node, ...]]:
    """Find the activation that ends the graph, and the nodes to take out for what lies behind it."""
    node = graph.outputs[0]
    reshaped = False
    while node.op == "call_function" and node.target in SAME_ELEMENTS:
        reshaped = reshaped or node.target not in _SAME_VALUES
        node = node.args[0]
    if node.op != "call_function":
        return "", ()
    if node.target is aten.sigmoid.default:
        return "sigmoid", (node,)
    if reshaped:
        return "", ()
    if node.target in _LOG_SOFTMAX and _over_classes(node):
        return "log_softmax", (node,)
    if node.target in _SOFTMAX and _over_classes(node):
        return "softmax", (node,)
    inner = node.args[0] if node.target is aten.log.default else None
    if isinstance(inner, fx.Node) and inner.target in _SOFTMAX and _over_classes(inner):
        return "log_softmax", (node, inner)
    return "", ()


def _over_classes(node: fx.Node) -> bool:
    return node.meta["val"].dim() == 2 and argument(node, "dim") in (1, -1)
