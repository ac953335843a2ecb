"""Which nodes can be read, decided over the whole graph before anything runs, so that all others are named at once."""

from collections.abc import Mapping

import onnx

from undue_service.models.refusals import unsupported_operators

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


def require_supported(graph: onnx.GraphProto) -> None:
    """Refuse a graph with nodes outside the table of operators.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    refused = {qualified(node) for node in graph.node if qualified(node) not in OPERATORS}
    if refused:
        why = dict.fromkeys(reason for name, reason in REFUSED.items() if name in refused)
        raise unsupported_operators(refused, "; ".join((*why, f"supported are {', '.join(OPERATORS)}")))
