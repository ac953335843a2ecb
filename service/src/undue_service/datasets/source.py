"""The seam: rows of a data set in blocks, whatever file they come from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import ColumnSchema

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Columns:
    """Some rows. The arrays may be views of a read-only file."""

    inputs: dict[str, Array]
    """By name, (B, …) each, in the type that the data has."""
    targets: Array | None
    """(B,) or (B, k); None where the data set has none."""
    weights: Array | None
    """w_i, (B,); None stands for ones."""
    index: npt.NDArray[np.int64]
    """Row numbers in the data set, (B,)."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a row is made of."""

    inputs: tuple[ColumnSchema, ...]
    """In the order of their names."""
    target: ColumnSchema | None
    weight: ColumnSchema | None
    has_ids: bool
    groups: tuple[str, ...] = ()
    """Names of the columns by which rows are told apart, in their order."""
    classes: tuple[str, ...] = ()
    """What the targets 0, 1, … stand for, where the files say so."""
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Input name to the file's columns that it was made of, for messages."""

    @property
    def has_weights(self) -> bool:
        """Whether rows have sample weights."""
        return self.weight is not None


class DatasetSource(Protocol):
    """A data set that can be read in blocks, as often as needed and each time alike."""

    def __len__(self) -> int:
        """Return the number of rows."""

    @property
    def schema(self) -> Schema:
        """What a row is made of."""

    def batches(self, rows: Sequence[int] | None, size: int) -> Iterator[Columns]:
        """Yield `rows` as given, repeats included, or all rows in order; `size` at a time, the last block the rest.

        Raises:
            InvalidArgument: ROW_OUT_OF_RANGE at once; DATASET_MALFORMED when damage is met.
        """

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Return the id of each of `rows`: the row number in decimal where the data set has no ids.

        Raises:
            InvalidArgument: ROW_OUT_OF_RANGE; DATASET_MALFORMED for an id that is no text.
        """

    def groups(self, rows: Sequence[int]) -> dict[str, list[str]]:
        """Return what each of `rows` has in each of the columns of groups, by the column's name.

        Raises:
            InvalidArgument: ROW_OUT_OF_RANGE; DATASET_MALFORMED for a value that is no text.
        """


def checked_rows(rows: Sequence[int], length: int) -> npt.NDArray[np.int64]:
    """Return row numbers as an array, (m,).

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE naming the first that does not exist.
    """
    given: Array = np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else np.asarray(rows)
    if given.size == 0:
        return np.empty(0, np.int64)
    if given.dtype.kind not in "iu":  # NumPy turns integers beyond 64 bits into floats
        given = np.asarray(rows, dtype=object)
    if given.ndim != 1 or not (given.dtype != object or all(type(row) is int for row in given)):
        raise TypeError("rows must be integers along one axis")
    wrong = np.flatnonzero((given < 0) | (given >= length))
    if wrong.size:
        text = f"row {given[wrong[0]]} does not exist; the data set has {length:,} rows, numbered from 0"
        raise InvalidArgument(Reason.ROW_OUT_OF_RANGE, text, metadata={"row": str(given[wrong[0]])})
    return given.astype(np.int64, copy=False)


def spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive blocks of `size`, the last block the rest."""
    if size < 1:
        raise ValueError(f"a block has at least one row, not {size}")
    return ((start, min(start + size, length)) for start in range(0, length, size))
