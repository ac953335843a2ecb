"""Runs the nodes of a graph in order, and of the graphs inside it where they stand."""

from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from undue_service.models.limits import MAX_STEPS, too_large
from undue_service.models.refusals import malformed, quoted, unsupported

from .expanding import Function, schema_function, version_of
from .initializers import subgraphs
from .operators import OPERATORS, qualified
from .operators.generation import require_room
from .values import Node, Subgraph, Value

Values = ChainMap[str, Value | None]
"""By name, the inner graph's before the outer's; None for an input that a function was not given."""
_MAX_DEPTH = 64


@dataclass(frozen=True)
class _Reads:
    """Which names of a graph are read, and how often."""

    by_name: Counter[str]
    outputs: frozenset[str]

    @classmethod
    def of(cls, nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> "_Reads":
        counts: Counter[str] = Counter()
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            counts.update(node.input)
            for graph in subgraphs(node):
                counts.update(value.name for value in graph.output)
                waiting.extend(graph.node)
        named = frozenset(outputs)
        return cls(counts + Counter(named), named)

    def once(self, name: str) -> bool:
        """Whether exactly one node reads a name, and it is no output."""
        return self.by_name[name] == 1 and name not in self.outputs


class Interpreter:
    """Runs graphs once, within a limit on the number of nodes that run."""

    def __init__(self, stored: Mapping[str, np.ndarray]) -> None:
        """Take what the graph stores, by name: numbers that are known whatever runs around them."""
        self._stored = stored
        self._steps = 0

    def run(
        self,
        nodes: Sequence[onnx.NodeProto],
        opsets: Mapping[str, int],
        values: Values,
        outputs: Sequence[str],
        depth: int = 0,
    ) -> tuple[Value, ...]:
        """Run nodes, each of which finds its inputs in `values` and leaves its outputs there; return some of them.

        Raises:
            InvalidArgument: MODEL_MALFORMED, MODEL_UNSUPPORTED.
            ResourceExhausted: UPLOAD_TOO_LARGE, loops run more nodes than the limit.
        """
        if depth > _MAX_DEPTH:
            raise malformed(f"the model's functions and subgraphs nest deeper than {_MAX_DEPTH}")
        reads = _Reads.of(nodes, outputs)
        self._count()
        for node in nodes:
            if node.op_type == "Constant" and node.output[0] in values.maps[0]:
                continue
            self._count()
            values.update(self._step(node, opsets, values, reads, depth))
        return tuple(_computed(name, values) for name in outputs)

    def _count(self) -> None:
        """Count a node, or a graph, which may have none."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise too_large("the number of ONNX nodes that run, loops unrolled,", self._steps, MAX_STEPS)

    def _step(
        self,
        node: onnx.NodeProto,
        opsets: Mapping[str, int],
        values: Values,
        reads: _Reads,
        depth: int,
    ) -> dict[str, Value]:
        """Return the outputs of a node, by name."""
        missing = [name for name in node.input if name and name not in values]
        if missing:
            raise malformed(f"{node.op_type} reads {quoted(missing[0])} before anything computes it")

        def subgraph(graph: onnx.GraphProto) -> Subgraph:
            return Subgraph(graph, lambda given: self._run_subgraph(graph, given, opsets, values, depth))

        inputs = [values[name] if name else None for name in node.input]
        opset = version_of(node, opsets)
        bound = Node(node, opset, inputs, reads.once, self._stored.get, subgraph)
        compute = OPERATORS.get(qualified(node))
        found = compute(bound) if compute else self._call(schema_function(bound), bound, values, depth)
        given = found if isinstance(found, tuple) else (found,)
        named = {name: value for name, value in zip(node.output, given, strict=False) if name and value is not None}
        for value in named.values():
            if isinstance(value, torch.Tensor):
                require_room(bound, value.shape)
        lacking = [name for name in node.output if name in reads.by_name and name and name not in named]
        if lacking:
            place = list(node.output).index(lacking[0])
            raise unsupported(
                f"{node.op_type} gives {quoted(lacking[0])} as its output {place}, which is not supported"
            )
        return named

    def _run_subgraph(
        self,
        graph: onnx.GraphProto,
        given: Sequence[Value],
        opsets: Mapping[str, int],
        values: Values,
        depth: int,
    ) -> tuple[Value, ...]:
        if len(given) != len(graph.input):
            raise malformed(f"the graph {quoted(graph.name)} takes {len(graph.input)} values, not {len(given)}")
        inner = values.new_child({entry.name: value for entry, value in zip(graph.input, given, strict=True)})
        return self.run(graph.node, opsets, inner, [entry.name for entry in graph.output], depth + 1)

    def _call(self, function: Function, node: Node, around: Values, depth: int) -> tuple[Value | None, ...]:
        """Return a function's outputs, as far as the node asks for them.

        A graph among the node's attributes becomes part of the function and still sees what is around the node.
        """
        given = [*node.inputs, *[None] * len(function.inputs)]
        values = around.new_child(dict(zip(function.inputs, given, strict=False)))
        asked = [name if given else "" for name, given in zip(function.outputs, node.proto.output, strict=False)]
        found = self.run(function.nodes, function.opsets, values, [name for name in asked if name], depth + 1)
        by_name = dict(zip((name for name in asked if name), found, strict=True))
        return tuple(by_name.get(name) for name in asked)


def _computed(name: str, values: Values) -> Value:
    value = values.get(name)
    if value is None:
        raise malformed(f"the output {quoted(name)} is not computed by any node")
    return value
