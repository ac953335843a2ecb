"""The softmax or sigmoid that ends a model, and what passes a tensor's elements on as they are.

Classifiers of two classes often give two numbers of one score s: (σ(−s), σ(s)), the softmax of (0, s), or (−s, s). A
loss of one score takes s.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import fx

from .graph import Graph, argument, aten

Activation = Literal["", "softmax", "log_softmax", "sigmoid", "two_class_softmax", "opposite_scores"]

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


def score_of_two_classes(graph: Graph) -> tuple[Activation, fx.Node | None]:
    """Find the one score s (B, 1) that the two outputs of a graph are made of, and how."""
    node = _behind_same_values(graph.outputs[0])
    parts = _columns(node)
    if parts is not None:
        first, second = parts
        if first.target is aten.neg.default and first.args[0] is second:
            return "opposite_scores", second
        complement = _complement_of(first)
        if complement is second and second.target is aten.sigmoid.default:
            return "two_class_softmax", second.args[0]
        return "", None
    if node.op == "call_function" and node.target in _SOFTMAX and _over_classes(node):
        parts = _columns(_behind_same_values(node.args[0]))
        if parts is not None and _is_zero(*parts):
            return "two_class_softmax", parts[1]
    return "", None


def _behind_same_values(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and node.target in _SAME_VALUES:
        node = node.args[0]
    return node


def _columns(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the two columns that a matrix is joined from."""
    if node.op != "call_function" or node.target is not aten.cat.default or argument(node, "dim", 0) not in (1, -1):
        return None
    parts = tuple(_behind_same_values(part) for part in node.args[0])
    is_column = all(part.meta["val"].dim() == 2 and part.meta["val"].shape[1] == 1 for part in parts)
    return (parts[0], parts[1]) if len(parts) == 2 and is_column else None


def _is_zero(node: fx.Node, like: fx.Node) -> bool:
    """Whether a node is zeros of another's shape: written as such, or as s − s."""
    if node.target is aten.sub.Tensor:
        return node.args[0] is like and node.args[1] is like and argument(node, "alpha") == 1
    return node.target is aten.zeros_like.default and node.args[0] is like


def _complement_of(node: fx.Node) -> fx.Node | None:
    """Return p where a node is 1 − p."""
    if node.target is aten.rsub.Scalar and node.args[1] == 1 and argument(node, "alpha") == 1:
        return node.args[0]
    return None


def _over_classes(node: fx.Node) -> bool:
    return node.meta["val"].dim() == 2 and argument(node, "dim") in (1, -1)
