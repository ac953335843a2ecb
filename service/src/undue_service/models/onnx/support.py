"""Which nodes can be read, decided over the whole graph before anything runs, so that all others are named at once."""

import onnx

from undue_service.models.refusals import unsupported_operators

from .operators import OPERATORS, qualified


def require_supported(graph: onnx.GraphProto) -> None:
    """Refuse a graph with nodes outside the table of operators.

    Raises:
        InvalidArgument: UNSUPPORTED_OPERATORS, with every such operator in its metadata.
    """
    refused = {qualified(node) for node in graph.node if qualified(node) not in OPERATORS}
    if refused:
        raise unsupported_operators(refused, f"supported are {', '.join(OPERATORS)}")
