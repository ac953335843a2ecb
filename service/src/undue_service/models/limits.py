"""Bounds on what a model file may ask for. A file beyond one is refused by name of the bound."""

from undue_service.domain.errors import Reason, ResourceExhausted

MAX_FILE_BYTES = 2**31 - 1
"""A protobuf message cannot be larger; one bound serves both formats."""
MAX_NODES = 50_000
"""After functions are inlined."""
MAX_STEPS = 50_000
"""ONNX nodes that run, where loops are unrolled and functions expanded."""
MAX_GRAPH_BYTES = 64 * 2**20
"""JSON text of a `.pt2` graph or weight table."""
MAX_ENTRIES = 20_000
"""Records of a `.pt2` archive."""
MAX_ROW_ELEMENTS = 2**28
"""Elements in one row of one input."""
MAX_SHAPE_NUMBERS = 2**16
"""Integers that are computed with one by one, as shapes are."""
MAX_RANK = 16


def too_large(what: str, size: int, limit: int) -> ResourceExhausted:
    """Return the error for a file that is beyond a bound."""
    return ResourceExhausted(
        Reason.UPLOAD_TOO_LARGE, f"{what} is {size:,}, the limit is {limit:,}", metadata={"limit": str(limit)}
    )
