"""The rows of a call of `explain`, in as many requests as they take. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ._errors import invalid
from ._schema import Arrays
from ._tensors import Encoded, checked_rows, encode
from .v1 import tensors_pb2

MAX_ROWS = 256
"""As many rows the service explains in one call."""

MAX_BYTES = 4 << 20
"""As many bytes of arrays it takes in one call."""


@dataclass(frozen=True, slots=True)
class Question:
    """Rows that go into one request."""

    first: int
    """Place of the first among all rows that are asked about."""
    inputs: Mapping[str, tensors_pb2.Tensor]
    targets: tensors_pb2.Tensor | None


def questions(inputs: object, targets: object) -> Iterator[Question]:
    """Yield the rows of some arrays, as many at a time as one request takes.

    Raises:
        InvalidArgument: something is no array, has no row or another number of rows, or one row alone is too large.
    """
    named = Arrays(inputs).named_inputs()
    fields = {name: f"inputs[{name!r}]" if name else "inputs" for name in named}
    arrays = {name: encode(fields[name], each) for name, each in named.items()}
    wanted = None if targets is None else encode("targets", targets)
    parts = [(fields[name], each) for name, each in arrays.items()]
    rows = checked_rows(parts if wanted is None else [*parts, ("targets", wanted)])
    if not rows:
        raise invalid("inputs", "has no row")
    size = sum(len(each.content) for each in (*arrays.values(), *(() if wanted is None else (wanted,)))) // rows
    if size > MAX_BYTES:
        text = f"a row takes {size:,} bytes where a call takes {MAX_BYTES:,}; put such rows into a data set (influence)"
        raise invalid("inputs", text)
    step = min(MAX_ROWS, MAX_BYTES // max(1, size))
    for first in range(0, rows, step):
        last = min(rows, first + step)
        yield Question(
            first,
            {name: _part(each, first, last) for name, each in arrays.items()},
            None if wanted is None else _part(wanted, first, last),
        )


def _part(array: Encoded, first: int, last: int) -> tensors_pb2.Tensor:
    size = len(array.content) // array.rows
    content = bytes(array.content[first * size : last * size])
    return tensors_pb2.Tensor(dtype=array.dtype, shape=[last - first, *array.shape[1:]], data=content)
