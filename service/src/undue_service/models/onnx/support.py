"""Which nodes can be read, decided over the whole graph before anything runs, so that all others are named at once."""

from collections.abc import Iterable, Iterator, Mapping

import onnx

from undue_service.models.refusals import unsupported_operators

from .expanding import defined_by, has_definition, version_of, versions_of
from .initializers import subgraphs
from .operators import OPERATORS, qualified

_TREES = (
    "a tree ensemble is a constant almost everywhere in its thresholds, so that no gradient leads from the loss to how "
    "it was trained: influence functions are not defined for it"
)
_MAPS = "inputs are arrays of numbers here, not maps; export the pipeline from the columns that those are made of"
REFUSED: Mapping[str, str] = {
    "ai.onnx.ml::CastMap": _MAPS,
    "ai.onnx.ml::DictVectorizer": _MAPS,
    "ai.onnx.ml::TreeEnsemble": _TREES,
    "ai.onnx.ml::TreeEnsembleClassifier": _TREES,
    "ai.onnx.ml::TreeEnsembleRegressor": _TREES,
}
"""Operators that are left out for a reason, and the reason."""


def require_supported(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> None:
    """Refuse a graph with nodes outside the table of operators that ONNX does not define by operators of the table.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    refused = set(_refused(graph.node, opsets, set()))
    if refused:
        why = dict.fromkeys(reason for name, reason in REFUSED.items() if name in refused)
        raise unsupported_operators(refused, "; ".join((*why, f"supported are {', '.join(OPERATORS)}")))


def _refused(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int], within: set[str]) -> Iterator[str]:
    """Yield the operators that cannot be read; `within`: those whose definition is being looked at."""
    for node in nodes:
        for graph in subgraphs(node):
            yield from _refused(graph.node, opsets, within)
        name = qualified(node)
        if name in OPERATORS:
            continue
        opset = version_of(node, opsets)
        if name in within or not has_definition(node.domain, node.op_type, opset):
            yield name
            continue
        definition = defined_by(node.domain, node.op_type, opset)
        # Where the definition depends on the types of the inputs, it is known only when the node runs.
        if definition and any(_refused(definition.node, versions_of(definition), within | {name})):
            yield name
