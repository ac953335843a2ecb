"""Parquet files, decoded block by block within their row groups."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import SchemaSpec

from .arrow import check_text_type, leaf_dtype, row_shape, to_numpy, to_texts
from .blocks import Block, BlockCache, Piece, Placed, length, regrouped, taken
from .files import DataFile
from .layout import Layout, check_exist, numeric_columns, text_columns
from .limits import CACHE_BYTES, block_rows
from .parquet_files import ParquetFiles, damage_named
from .refusals import in_file, malformed
from .source import Array, Columns, Schema, checked_rows, spans
from .texts import Part, group_part, take_ids

_TEXT_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Columns that are decoded together."""

    columns: tuple[str, ...]
    decode: Callable[[str, pa.Array, int], Array]
    """Column name, its values, number of the first row → (B, …)."""
    block_rows: int


class ParquetSource:
    """DatasetSource over files whose rows follow each other. Decodes the row groups asked for; keeps some decoded."""

    def __init__(self, files: Sequence[DataFile], spec: SchemaSpec, cache_bytes: int = CACHE_BYTES) -> None:
        """Read the files' schemas; the shape of lists is that of row 0. Keeps up to `cache_bytes` decoded.

        Raises:
            InvalidArgument: COLUMN_NOT_FOUND; DATASET_MALFORMED for a damaged file, or columns that do not fit.
            FailedPrecondition: DATASET_CHANGED.
            ResourceExhausted: it is beyond the limits.
        """
        names, texts = numeric_columns(spec), text_columns(spec)
        self._files = ParquetFiles(files, [*names, *texts])
        self._starts = self._files.starts
        fields = self._files.fields
        check_exist(spec, fields, files[0].name if self._files.several else None)
        dtypes = {name: leaf_dtype(name, fields[name].type) for name in names}
        shapes = self._first_row_shapes({name: fields[name].type for name in names})
        self._layout = Layout(spec, {name: ColumnSchema(name, dtypes[name], shapes[name]) for name in names})
        self._numbers = _Decoded(
            columns=tuple(names),
            decode=lambda name, values, first: to_numpy(name, values, shapes[name], first),
            block_rows=block_rows(self._layout.row_bytes),
        )
        self._ids = None if spec.id is None else _texts(Part(spec.id), fields)
        self._groups = {name: _texts(group_part(name), fields) for name in self._layout.schema.groups}
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

    def groups(self, rows: Sequence[int]) -> dict[str, list[str]]:
        """See DatasetSource."""
        wanted = checked_rows(rows, len(self))
        if not len(wanted):
            return {name: [] for name in self._groups}
        return {name: list(self._gathered(part, wanted)[name]) for name, part in self._groups.items()}

    def stored(self) -> Iterator[Placed]:
        """Yield all rows in order as the files hold them, before they are made inputs. Nothing of it is kept.

        Raises:
            InvalidArgument: DATASET_MALFORMED when damage is met.
        """
        for group in range(len(self._starts) - 1):
            yield from self._decoded(group, self._numbers)

    def _in_order(self, part: _Decoded, wanted: npt.NDArray[np.int64] | None) -> Iterator[Piece]:
        """Yield ascending rows, or all, going through each row group once."""
        for group in range(len(self._starts) - 1) if wanted is None else self._row_groups(wanted):
            for start, block in self._blocks(int(group), part):
                stop = start + length(block)
                if wanted is None:
                    yield np.arange(start, stop, dtype=np.int64), block
                    continue
                here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]
                for a, b in spans(len(here), stop - start):  # a row may be asked for any number of times
                    yield here[a:b], taken(block, here[a:b] - start)

    def _gathered(self, part: _Decoded, wanted: npt.NDArray[np.int64]) -> Block:
        """Return rows in any order."""
        gathered: Block = {}
        for group in self._row_groups(wanted):
            for start, block in self._blocks(int(group), part):
                at = np.flatnonzero((wanted >= start) & (wanted < start + length(block)))
                for name, values in block.items():
                    if name not in gathered:
                        gathered[name] = np.empty((len(wanted), *values.shape[1:]), values.dtype)
                    gathered[name][at] = values[wanted[at] - start]
        return gathered

    def _row_groups(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.unique(np.searchsorted(self._starts, wanted, side="right") - 1)

    def _blocks(self, group: int, part: _Decoded) -> Iterator[Placed]:
        return self._cache.through((group, part), self._decoded(group, part))

    def _decoded(self, group: int, part: _Decoded) -> Iterator[Placed]:
        first, end = int(self._starts[group]), int(self._starts[group + 1])
        start = first
        for batch in self._files.record_batches(group, part.columns, part.block_rows):
            if start + batch.num_rows > end:
                break
            try:
                with damage_named():
                    block = {name: part.decode(name, batch.column(name), start) for name in part.columns}
            except InvalidArgument as error:
                if not self._files.several:
                    raise
                which = self._files.groups[group]
                raise in_file(error, which.file.name, which.file_start) from error
            if batch.num_rows:
                yield start, block
            start += batch.num_rows
        if start != end:
            raise malformed(f"row group {group} does not hold the {end - first:,} rows that the file declares")

    def _first_row_shapes(self, types: Mapping[str, pa.DataType]) -> dict[str, tuple[int, ...]]:
        lists = [name for name, kind in types.items() if pa.types.is_nested(kind)]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(types, ())
        if not lists or len(self) == 0:
            return shapes
        group = int(np.searchsorted(self._starts, 0, side="right")) - 1
        first = next(self._files.record_batches(group, lists, 1), None)
        if first is None or first.num_rows == 0:
            raise malformed("the file holds fewer rows than it declares")
        with damage_named():
            return shapes | {name: row_shape(name, first.column(name)) for name in lists}


def _texts(part: Part, fields: Mapping[str, pa.Field]) -> _Decoded:
    check_text_type(part, fields[part.column].type)
    return _Decoded((part.column,), lambda _, values, first: to_texts(part, values, first), _TEXT_BLOCK_ROWS)
