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
_RANDOM = "a random number is another one each time, so that the model has no one prediction; export it in inference"
REFUSED: Mapping[str, str] = {
    "ai.onnx.ml::CastMap": _MAPS,
    "ai.onnx.ml::DictVectorizer": _MAPS,
    "ai.onnx.ml::TreeEnsemble": _TREES,
    "ai.onnx.ml::TreeEnsembleClassifier": _TREES,
    "ai.onnx.ml::TreeEnsembleRegressor": _TREES,
    "Bernoulli": _RANDOM,
    "Multinomial": _RANDOM,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
}
"""Operators that are left out for a reason, and the reason."""
_ROUNDING = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
)
"""Operators that compute in quantised integers."""


def require_supported(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> None:
    """Refuse a graph with nodes outside the table of operators that ONNX does not define by operators of the table.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    refused = set(_refused(graph.node, opsets, set()))
    if refused:
        why = dict.fromkeys(reason for name, reason in REFUSED.items() if name in refused)
        raise unsupported_operators(refused, "; ".join((*why, f"supported are {', '.join(OPERATORS)}")))


def require_derivatives(graph: onnx.GraphProto) -> None:
    """Refuse a graph that computes in quantised integers: their derivative is 0 wherever there is one.

    Weights that are stored as integers and dequantised before use are constants, which is another matter.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    found, waiting = set(), [graph]
    while waiting:
        for node in waiting.pop().node:
            found |= {qualified(node)} & _ROUNDING
            waiting.extend(subgraphs(node))
    if found:
        advice = "it rounds to integers, so that no gradient leads through it; register the model before quantisation"
        raise unsupported_operators(found, advice)


def _refused(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int], within: set[str]) -> Iterator[str]:
    """Yield the operators that cannot be read; `within`: those whose definition is being looked at."""
    for node in nodes:
        for graph in subgraphs(node):
            yield from _refused(graph.node, opsets, within)
        name = qualified(node)
        if name in OPERATORS:
            continue
        opset = version_of(node, opsets)
        if name in REFUSED or name in within or not has_definition(node.domain, node.op_type, opset):
            yield name
            continue
        definition = defined_by(node.domain, node.op_type, opset)
        # Where the definition depends on the types of the inputs, it is known only when the node runs.
        if definition and any(_refused(definition.node, versions_of(definition), within | {name})):
            yield name
