"""Labels and numbers as messages. Pure."""

from undue.v1 import tensors_pb2
from undue_service.domain.results import Value


def value(of: Value) -> tensors_pb2.Value:
    """Return a class, a number or several numbers."""
    if isinstance(of, tuple):
        return tensors_pb2.Value(numbers=tensors_pb2.NumberList(values=of))
    return tensors_pb2.Value(label=of) if isinstance(of, int) else tensors_pb2.Value(number=of)
