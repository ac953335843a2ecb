"""Which nodes can be read, decided over the whole graph before anything runs, so that all others are named at once."""

import onnx

from undue_service.models.refusals import unsupported_operators

from .operators import OPERATORS


def require_supported(graph: onnx.GraphProto) -> None:
    """Refuse a graph with nodes outside the table of operators.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    refused = {_qualified(node) for node in graph.node if _qualified(node) not in OPERATORS}
    if refused:
        raise unsupported_operators(refused, f"supported are {', '.join(OPERATORS)}")


def _qualified(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
