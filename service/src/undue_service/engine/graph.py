"""An ATen graph as a pure function of its parameters and inputs, ready for `torch.func`."""

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from undue_service.domain.errors import InvalidArgument, Reason

from .rewrites import REWRITTEN, RUN, aten

_SHAPE_ARITHMETIC = frozenset(
    getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem", "eq", "ne", "lt", "le", "gt", "ge")
)
_TRAINING_FLAGS = {
    aten.batch_norm.default: "training",
    aten.dropout.default: "train",
    aten.feature_dropout.default: "train",
    aten.alpha_dropout.default: "train",
    aten.feature_alpha_dropout.default: "train",
}
_IDENTITIES = frozenset(
    {
        aten.lift_fresh_copy.default,
        aten.lift_fresh.default,
        *(op for op, flag in _TRAINING_FLAGS.items() if flag == "train"),
    }
)
"""Operators that hand on their input once nothing is written in place and nothing is trained."""
_WRITTEN_HERE = frozenset(REWRITTEN.values())
_ATTENTION = aten.scaled_dot_product_attention.default


@dataclass(frozen=True, slots=True)
class Feed:
    """What a placeholder of the graph receives."""

    kind: Literal["parameter", "constant", "input"]
    name: str


def unsupported(message: str) -> InvalidArgument:
    """Return the error for a program that the engine cannot differentiate."""
    return InvalidArgument(Reason.MODEL_UNSUPPORTED, message)


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """Return an operator call's argument by the name its schema gives it."""
    for position, formal in enumerate(node.target._schema.arguments):
        if formal.name != name:
            continue
        if name in node.kwargs:
            return node.kwargs[name]
        if position < len(node.args):
            return node.args[position]
        return formal.default_value if formal.has_default_value() else default
    return default


class Graph:
    """A pure function (parameters, inputs) → tensors.

    `nodes` is in topological order and every node in it reaches an output. It is interpreted rather than compiled to
    Python: a program's names come from a stranger's file and must never become source code.
    """

    def __init__(self, graph: fx.Graph, feeds: Mapping[str, Feed], outputs: Sequence[fx.Node]) -> None:
        self._graph = graph
        self._feeds = dict(feeds)
        self.outputs = tuple(outputs)
        self.reached = ancestors(self.outputs)
        self.nodes = tuple(node for node in graph.nodes if node in self.reached)
        self.feeds = {node: self._feeds[node.name] for node in self.nodes if node.op == "placeholder"}
        self._last_use = {source: node for node in self.nodes for source in node.all_input_nodes}
        self._attends = any(node.target is _ATTENTION for node in self.nodes)

    @classmethod
    def pure(cls, source: fx.Graph, feeds: Mapping[str, Feed]) -> "Graph":
        """Copy an exported graph and make it pure: shape queries in Python, no in-place writes, no training mode.

        Args:
            source: the graph of an exported program.
            feeds: placeholder name to what it receives.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED where the graph draws random numbers, writes to its inputs, normalises
                with batch statistics, or calls something other than ATen operators and shape arithmetic.
        """
        graph = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(source, copied)
        outputs = [node for node in _flat(result) if isinstance(node, fx.Node)]
        named = {copied[node].name: feeds[node.name] for node in source.nodes if node.op == "placeholder"}
        for node in list(graph.nodes):
            _purify(graph, node, outputs)
        pure = cls(graph, named, outputs)
        for node in pure.nodes:
            _check(node)
        return pure

    def ending_at(self, *outputs: fx.Node) -> "Graph":
        """Return the part of the graph that these nodes need, as a function that returns them."""
        return Graph(self._graph, self._feeds, outputs)

    def without(self, *nodes: fx.Node) -> "Graph":
        """Return a copy of the graph in which these nodes pass their first input through."""
        graph, copies = self._copy()
        outputs = [copies[node] for node in self.outputs]
        for node in sorted(nodes, key=self.nodes.index):
            source = copies[node].args[0]
            copies[node].replace_all_uses_with(source)
            outputs = [source if output is copies[node] else output for output in outputs]
        return Graph(graph, {copies[node].name: feed for node, feed in self.feeds.items()}, outputs)

    def cast(self, device: torch.device, dtype: torch.dtype) -> "Graph":
        """Return a copy whose baked devices and floating dtypes are the given ones."""
        graph, copies = self._copy()

        def rewrite(value: Any) -> Any:
            if isinstance(value, torch.dtype) and value.is_floating_point:
                return dtype
            return device if isinstance(value, torch.device) else value

        for node in graph.nodes:
            if node.op != "call_function":
                continue
            node.args = fx.node.map_aggregate(node.args, rewrite)
            node.kwargs = fx.node.map_aggregate(node.kwargs, rewrite)
            if _is_float_factory(node):
                node.kwargs = {**node.kwargs, "dtype": dtype}
        feeds = {copies[node].name: feed for node, feed in self.feeds.items()}
        return Graph(graph, feeds, [copies[node] for node in self.outputs])

    def __call__(self, values: Callable[[Feed], Tensor], watched: Collection[fx.Node] = ()) -> tuple[Tensor, ...]:
        """Run the graph.

        Args:
            values: what each placeholder receives.
            watched: nodes whose values shall require a gradient.
        """
        if self._attends:
            # The fused kernels have neither forward mode nor a second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                return self._run(values, frozenset(watched))
        return self._run(values, frozenset(watched))

    def row_numel(self, parameters: Collection[str], inputs: Collection[str] = ()) -> int:
        """Return how many numbers one row needs in a forward pass that gradients in some parameters are taken through.

        Likewise in some inputs.

        Values that depend on these parameters are kept for the way back, with what they are made of; of all others it
        is what a pass holds at the same time.
        """
        named = {"parameter": parameters, "input": inputs, "constant": ()}
        varying = {node for node, feed in self.feeds.items() if feed.name in named[feed.kind]}
        kept = most = 0
        held: dict[fx.Node, int] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                continue
            sources = node.all_input_nodes
            if any(source in varying for source in sources):
                varying.add(node)
                kept += row_numel(node) + sum(held.pop(source, 0) for source in sources)
            else:
                held[node] = row_numel(node)
            most = max(most, kept + sum(held.values()))
            for source in sources:
                if self._last_use[source] is node and source not in self.outputs:
                    held.pop(source, None)
        return most

    def _run(self, values: Callable[[Feed], Tensor], watched: frozenset[fx.Node]) -> tuple[Tensor, ...]:
        env: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                env[node] = values(self.feeds[node])
                continue
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), env.__getitem__)
            value = RUN.get(node.target, node.target)(*args, **kwargs)
            if node in watched and not value.requires_grad:
                value = value.detach().requires_grad_()
            env[node] = value
            for source in node.all_input_nodes:
                if self._last_use[source] is node and source not in self.outputs:
                    del env[source]
        return tuple(env[node] for node in self.outputs)

    def _copy(self) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        return graph, copies


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def ancestors(outputs: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes that these depend on, themselves included."""
    reached: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(node.all_input_nodes)
    return reached


def row_numel(node: fx.Node) -> int:
    """Return how many numbers of a node's value belong to one row; a free length counts as one."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or all(isinstance(size, int) for size in value.shape):
        return 0
    numel = 1
    for size in value.shape:
        numel *= (
            size
            if isinstance(size, int)
            else max(1, int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, 1))))
        )
    return numel


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _is_float_factory(node: fx.Node) -> bool:
    """Whether the node makes a floating tensor from nothing, in torch's default dtype."""
    value = node.meta.get("val")
    return (
        _is_operator(node)
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and not any(isinstance(source.meta.get("val"), Tensor) for source in node.all_input_nodes)
        and any(formal.name == "dtype" for formal in node.target._schema.arguments)
        and argument(node, "dtype") is None
    )


def _aliases(node: fx.Node) -> list[fx.Node]:
    """Return the inputs whose memory the node's result may share."""
    if node.op == "call_function" and node.target is operator.getitem:
        return list(node.all_input_nodes)
    if not _is_operator(node):
        return []
    shared = [formal.name for formal in node.target._schema.arguments if formal.alias_info is not None]
    return [source for name in shared if isinstance(source := argument(node, name), fx.Node)]


def _purify(graph: fx.Graph, node: fx.Node, outputs: list[fx.Node]) -> None:
    if not _is_operator(node):
        return
    op = node.target
    if op in _TRAINING_FLAGS and argument(node, _TRAINING_FLAGS[op]):
        raise unsupported(
            f"the program holds {op} in training mode, whose result depends on chance or on the other rows; call "
            "model.eval() before exporting"
        )
    if op in _IDENTITIES or (op is aten.detach_.default and node.args[0].op == "placeholder"):
        _bypass(graph, node, outputs)
        return
    if op._schema.is_mutable:
        _functionalise(node, outputs)
    node.target = REWRITTEN.get(node.target, node.target)


def _bypass(graph: fx.Graph, node: fx.Node, outputs: list[fx.Node]) -> None:
    node.replace_all_uses_with(node.args[0])
    outputs[:] = [node.args[0] if output is node else output for output in outputs]
    graph.erase_node(node)


def _functionalise(node: fx.Node, outputs: list[fx.Node]) -> None:
    """Turn an in-place operator into the one that returns its result, where nothing else sees what it writes.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED where what is written is an input, or is used later under another name.
    """
    op, target = node.target, node.args[0]
    packet = getattr(aten, op._schema.name.removeprefix("aten::").removesuffix("_"), None)
    functional = getattr(packet, op._overloadname, None)
    formals = op._schema.arguments
    written = [formal.name for formal in formals if formal.alias_info is not None and formal.alias_info.is_write]
    later = list(node.graph.nodes)
    later = later[later.index(node) + 1 :]
    seen = _sharing(target, without=node) - {target}
    used_later = {source for user in later for source in user.all_input_nodes} | set(outputs)
    from_outside = any(source.op == "placeholder" for source in {target, *seen})
    if (
        op.namespace != "aten"
        or written != [formals[0].name]
        or functional is None
        or from_outside
        or seen & used_later
    ):
        raise unsupported(
            f"the program writes in place through {op} to one of its inputs, buffers or views; call model.eval() "
            "before exporting, and compute new values instead"
        )
    node.target = functional
    for user in later:
        user.replace_input_with(target, node)
    outputs[:] = [node if output is target else output for output in outputs]


def _sharing(node: fx.Node, without: fx.Node) -> set[fx.Node]:
    """Return the nodes that may share the node's memory, by views, otherwise than through `without`."""
    shared: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in shared and one is not without:
            shared.add(one)
            waiting.extend(_aliases(one))
            waiting.extend(user for user in one.users if one in _aliases(user))
    return shared


def _check(node: fx.Node) -> None:
    if node.op == "placeholder":
        return
    op = node.target
    if op in _WRITTEN_HERE or op in _SHAPE_ARITHMETIC:
        return
    if not _is_operator(node) or op.namespace != "aten":
        raise unsupported(f"the program calls {op}; only ATen operators and shape arithmetic are differentiated here")
    if op is _ATTENTION:
        if argument(node, "dropout_p"):
            raise unsupported("the program's attention has dropout; call model.eval() before exporting")
    elif torch.Tag.nondeterministic_seeded in op.tags:
        raise unsupported(f"the program draws random numbers through {op}; call model.eval() before exporting")
