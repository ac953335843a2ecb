"""A data set whose columns can be indexed by row: arrays in memory or mapped from a file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import SchemaSpec

from .dtypes import LISTED, NUMERIC
from .layout import Layout, numeric_columns
from .limits import MAX_ROWS, too_large
from .refusals import bad_column, bad_value, rows_mismatch
from .source import Array, Columns, Schema, checked_rows, spans
from .texts import Texts, take_ids


class Stored(Protocol):
    """An array of stored values, (n, …), in any byte order."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""

    def __getitem__(self, at: slice | npt.NDArray[np.int64], /) -> Array:
        """Return some rows."""


class TableSource:
    """DatasetSource over columns that can be indexed by row. Reads only the rows asked for."""

    def __init__(
        self,
        spec: SchemaSpec,
        columns: Mapping[str, Stored],
        ids: Texts | None,
        groups: Mapping[str, Texts],
        classes: tuple[str, ...] = (),
    ) -> None:
        """Hold the columns that a schema names; `groups` has what `spec.groups` names.

        Raises:
            InvalidArgument: ROWS_MISMATCH; DATASET_MALFORMED for columns that do not fit their part.
            ResourceExhausted: it is beyond the limits.
        """
        self._columns = {name: columns[name] for name in numeric_columns(spec)}
        self._ids = ids
        self._layout = Layout(spec, {name: _described(name, stored) for name, stored in self._columns.items()}, classes)
        self._groups = {name: groups[name] for name in self._layout.schema.groups}
        lengths = {name: stored.shape[0] for name, stored in self._columns.items()}
        lengths |= {name: len(texts) for name, texts in self._groups.items()}
        if ids is not None and spec.id is not None:
            lengths[spec.id] = len(ids)
        if len(set(lengths.values())) > 1:
            raise rows_mismatch(lengths)
        self._length = next(iter(lengths.values()))
        if self._length > MAX_ROWS:
            raise too_large("the number of rows", self._length, MAX_ROWS)

    def __len__(self) -> int:
        return self._length

    @property
    def schema(self) -> Schema:
        """See DatasetSource."""
        return self._layout.schema

    def batches(self, rows: Sequence[int] | None, size: int) -> Iterator[Columns]:
        """See DatasetSource."""
        if rows is None:
            every = np.arange
            return (self._read(slice(a, b), every(a, b, dtype=np.int64)) for a, b in spans(self._length, size))
        wanted = checked_rows(rows, self._length)
        return (self._read(wanted[a:b], wanted[a:b]) for a, b in spans(len(wanted), size))

    def ids(self, rows: Sequence[int]) -> list[str]:
        """See DatasetSource."""
        return take_ids(self._ids, rows, self._length)

    def groups(self, rows: Sequence[int]) -> dict[str, list[str]]:
        """See DatasetSource."""
        wanted = checked_rows(rows, self._length)
        return {name: texts.take(wanted) for name, texts in self._groups.items()}

    def _read(self, at: slice | npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> Columns:
        block = {name: _native(name, stored[at], index) for name, stored in self._columns.items()}
        return self._layout.assemble(block, index)


def _described(name: str, stored: Stored) -> ColumnSchema:
    if not stored.shape:
        raise bad_column(name, "is a single value; a column has one value a row")
    dtype = stored.dtype.newbyteorder("=").name
    if dtype not in NUMERIC:
        raise bad_column(name, f"is {stored.dtype}; a model's data is one of {LISTED}")
    return ColumnSchema(name, dtype, stored.shape[1:])


def _native(name: str, values: Array, index: npt.NDArray[np.int64]) -> Array:
    # A boolean of any byte but 0 and 1 would be true or false as the next operation pleases.
    if values.dtype == np.bool_:
        wrong = np.flatnonzero((values.view(np.uint8) > 1).any(axis=tuple(range(1, values.ndim))))
        if wrong.size:
            raise bad_value(name, int(index[wrong[0]]), "a boolean is stored as a byte other than 0 and 1")
    return values.astype(values.dtype.newbyteorder("="), copy=False)
