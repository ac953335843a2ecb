"""Which nodes can be read, decided over the whole graph before anything runs, so that all others are named at once."""

from collections.abc import Iterable, Iterator, Mapping

import onnx

from undue_service.models.refusals import unsupported_operators

from .expanding import defined_by, has_definition
from .initializers import subgraphs
from .operators import OPERATORS, qualified


def require_supported(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> None:
    """Refuse a graph with nodes outside the table of operators that ONNX does not define by operators of the table.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    refused = set(_refused(graph.node, opsets, set()))
    if refused:
        raise unsupported_operators(refused, f"supported are {', '.join(OPERATORS)}")


def _refused(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int], within: set[str]) -> Iterator[str]:
    """Yield the operators that cannot be read; `within`: those whose definition is being looked at."""
    for node in nodes:
        for graph in subgraphs(node):
            yield from _refused(graph.node, opsets, within)
        name = qualified(node)
        if name in OPERATORS:
            continue
        opset = opsets.get("" if node.domain == "ai.onnx" else node.domain, 1)
        if name in within or not has_definition(node.domain, node.op_type, opset):
            yield name
            continue
        definition = defined_by(node.domain, node.op_type, opset)
        # Where the definition depends on the types of the inputs, it is known only when the node runs.
        if definition and any(_refused(definition, opsets, within | {name})):
            yield name
