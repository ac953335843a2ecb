"""Parquet files, decoded block by block within their row groups."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.specs import ColumnSchema, SchemaSpec

from .arrow import check_id_type, leaf_dtype, row_shape, to_ids, to_numpy
from .blocks import Block, BlockCache, Piece, Placed, length, regrouped, taken
from .digest import digest_of
from .ids import take_ids
from .layout import Layout, check_exist, numeric_columns
from .limits import CACHE_BYTES, MAX_COLUMNS, MAX_ROWS, block_rows, too_large
from .refusals import bad_column, malformed, quoted
from .source import Array, Columns, Schema, checked_rows, spans

_PAGE_BUFFER_BYTES = 1 << 20
_ID_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class _Part:
    """Columns that are decoded together."""

    columns: tuple[str, ...]
    decode: Callable[[str, pa.Array, int], Array]
    """Column name, its values, number of the first row → (B, …)."""
    block_rows: int


class ParquetSource:
    """DatasetSource over one file. Decodes the row groups asked for; keeps up to `cache_bytes` of them decoded."""

    def __init__(self, path: Path, spec: SchemaSpec, cache_bytes: int = CACHE_BYTES) -> None:
        """Open a file and read its schema; the shape of lists is that of row 0.

        Raises:
            InvalidArgument: COLUMN_NOT_FOUND; DATASET_MALFORMED for a damaged file, or columns that do not fit.
            ResourceExhausted: it is beyond the limits.
        """
        with _damage_named():
            self._file = pq.ParquetFile(
                path, pre_buffer=False, buffer_size=_PAGE_BUFFER_BYTES, page_checksum_verification=True
            )
            fields = _fields(self._file)
            self._starts = _row_group_starts(self._file)
        check_exist(spec, fields)
        names = numeric_columns(spec)
        dtypes = {name: leaf_dtype(name, fields[name].type) for name in names}
        shapes = self._first_row_shapes({name: fields[name].type for name in names})
        self._layout = Layout(spec, {name: ColumnSchema(name, dtypes[name], shapes[name]) for name in names})
        self._numbers = _Part(
            columns=tuple(names),
            decode=lambda name, values, first: to_numpy(name, values, shapes[name], first),
            block_rows=block_rows(self._layout.row_bytes),
        )
        self._ids: _Part | None = None
        if spec.id is not None:
            check_id_type(spec.id, fields[spec.id].type)
            self._ids = _Part((spec.id,), to_ids, _ID_BLOCK_ROWS)
        self._cache = BlockCache(cache_bytes)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def schema(self) -> Schema:
        """See DatasetSource."""
        return self._layout.schema

    def batches(self, rows: Sequence[int] | None, size: int) -> Iterator[Columns]:
        """See DatasetSource."""
        wanted = None if rows is None else checked_rows(rows, len(self))
        bounds = spans(len(self) if wanted is None else len(wanted), size)
        if wanted is None or bool(np.all(wanted[1:] >= wanted[:-1])):
            pieces = regrouped(self._in_order(self._numbers, wanted), size)
        else:
            pieces = ((wanted[a:b], self._gathered(self._numbers, wanted[a:b])) for a, b in bounds)
        return (self._layout.assemble(block, index) for index, block in pieces)

    def ids(self, rows: Sequence[int]) -> list[str]:
        """See DatasetSource."""
        if self._ids is None:
            return take_ids(None, rows, len(self))
        wanted = checked_rows(rows, len(self))
        return list(self._gathered(self._ids, wanted)[self._ids.columns[0]]) if len(wanted) else []

    def digest(self) -> str:
        """See DatasetSource."""
        return digest_of(self)

    def _in_order(self, part: _Part, wanted: npt.NDArray[np.int64] | None) -> Iterator[Piece]:
        """Yield ascending rows, or all, going through each row group once."""
        for group in range(len(self._starts) - 1) if wanted is None else self._groups(wanted):
            for start, block in self._blocks(int(group), part):
                stop = start + length(block)
                if wanted is None:
                    yield np.arange(start, stop, dtype=np.int64), block
                    continue
                here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]
                for a, b in spans(len(here), stop - start):  # a row may be asked for any number of times
                    yield here[a:b], taken(block, here[a:b] - start)

    def _gathered(self, part: _Part, wanted: npt.NDArray[np.int64]) -> Block:
        """Return rows in any order."""
        gathered: Block = {}
        for group in self._groups(wanted):
            for start, block in self._blocks(int(group), part):
                at = np.flatnonzero((wanted >= start) & (wanted < start + length(block)))
                for name, values in block.items():
                    if name not in gathered:
                        gathered[name] = np.empty((len(wanted), *values.shape[1:]), values.dtype)
                    gathered[name][at] = values[wanted[at] - start]
        return gathered

    def _groups(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.unique(np.searchsorted(self._starts, wanted, side="right") - 1)

    def _blocks(self, group: int, part: _Part) -> Iterator[Placed]:
        return self._cache.through((group, part), self._decoded(group, part))

    def _decoded(self, group: int, part: _Part) -> Iterator[Placed]:
        first, end = int(self._starts[group]), int(self._starts[group + 1])
        start = first
        for batch in self._record_batches(group, part.columns, part.block_rows):
            if start + batch.num_rows > end:
                break
            with _damage_named():
                block = {name: part.decode(name, batch.column(name), start) for name in part.columns}
            if batch.num_rows:
                yield start, block
            start += batch.num_rows
        if start != end:
            raise malformed(f"row group {group} does not hold the {end - first:,} rows that the file declares")

    def _record_batches(self, group: int, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with _damage_named():
            batches = self._file.iter_batches(size, row_groups=[group], columns=list(names), use_threads=False)
        while True:
            with _damage_named():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _first_row_shapes(self, types: Mapping[str, pa.DataType]) -> dict[str, tuple[int, ...]]:
        lists = [name for name, kind in types.items() if pa.types.is_nested(kind)]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(types, ())
        if not lists or len(self) == 0:
            return shapes
        group = int(np.searchsorted(self._starts, 0, side="right")) - 1
        first = next(self._record_batches(group, lists, 1), None)
        if first is None or first.num_rows == 0:
            raise malformed("the file holds fewer rows than it declares")
        with _damage_named():
            return shapes | {name: row_shape(name, first.column(name)) for name in lists}


def _fields(file: pq.ParquetFile) -> dict[str, pa.Field]:
    fields = list(file.schema_arrow)
    if len(fields) > MAX_COLUMNS:
        raise too_large("the number of columns", len(fields), MAX_COLUMNS)
    named: dict[str, pa.Field] = {}
    for field in fields:
        if field.name in named:
            raise bad_column(field.name, "appears twice: rename one of them")
        named[field.name] = field
    return named


def _row_group_starts(file: pq.ParquetFile) -> npt.NDArray[np.int64]:
    """Return the number of the first row of each row group, and of the row after the last."""
    # Nothing more is asked of a row group's metadata here: damage in a column's ends the process (pyarrow 26.0).
    counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if any(count < 0 for count in counts) or sum(counts) != file.metadata.num_rows:
        raise malformed(f"the file declares {file.metadata.num_rows:,} rows, and its row groups {sum(counts):,}")
    if file.metadata.num_rows > MAX_ROWS:
        raise too_large("the number of rows", file.metadata.num_rows, MAX_ROWS)
    return np.cumsum([0, *counts], dtype=np.int64)


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        text = "the Parquet file needs more memory than this machine has: write it with smaller row groups and pages"
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise malformed(f"the file is no Parquet file, or is damaged: {quoted(error)}; write it again") from error
