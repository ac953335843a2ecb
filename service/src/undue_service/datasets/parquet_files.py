"""The files of a Parquet data set as one sequence of row groups. Footers are read at once, the rest when needed."""

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from undue_service.domain.errors import Reason, ResourceExhausted

from .files import DataFile
from .limits import MAX_COLUMNS, MAX_OPEN_FILES, MAX_ROWS, too_large
from .refusals import bad_column, bad_file, malformed, quoted

_PAGE_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Group:
    """One row group."""

    file: DataFile
    place: int
    """Its number in the file."""
    file_start: int
    """The number of the file's first row in the data set."""


class ParquetFiles:
    """Row groups of one or more files, whose rows follow each other."""

    def __init__(self, files: Sequence[DataFile], wanted: Sequence[str]) -> None:
        """Read the footers; the `wanted` columns that the first file has must be of the same type in all.

        Raises:
            InvalidArgument: DATASET_MALFORMED for a damaged file, or columns that differ.
            FailedPrecondition: DATASET_CHANGED.
            ResourceExhausted: it is beyond the limits.
        """
        self.several = len(files) > 1
        self._open: OrderedDict[DataFile, pq.ParquetFile] = OrderedDict()
        self.fields: dict[str, pa.Field] = {}
        self.groups: list[Group] = []
        counts: list[int] = []
        for file in files:
            opened = self._opened(file)
            with damage_named():
                fields = _fields(opened)
                start = sum(counts)
                sizes = _row_group_sizes(opened)
            if not self.groups and not self.fields:
                self.fields = fields
            for name in wanted:
                if name in self.fields:
                    _compare(name, self.fields[name], fields.get(name), files[0], file)
            self.groups += [Group(file, place, start) for place in range(len(sizes))]
            counts += sizes
        if sum(counts) > MAX_ROWS:
            raise too_large("the number of rows", sum(counts), MAX_ROWS)
        self.starts: npt.NDArray[np.int64] = np.cumsum([0, *counts], dtype=np.int64)
        """Number of the first row of each row group, and of the row after the last."""

    def record_batches(self, group: int, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group, at most `size` at a time."""
        which = self.groups[group]
        opened = self._opened(which.file)
        with damage_named():
            batches = opened.iter_batches(size, row_groups=[which.place], columns=list(names), use_threads=False)
        while True:
            with damage_named():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _opened(self, file: DataFile) -> pq.ParquetFile:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        raw = file.open()
        with damage_named():
            opened = pq.ParquetFile(
                _Readable(raw), pre_buffer=False, buffer_size=_PAGE_BUFFER_BYTES, page_checksum_verification=True
            )
        self._open[file] = opened
        while len(self._open) > MAX_OPEN_FILES:  # one that is being read closes when its reader goes
            self._open.popitem(last=False)
        return opened


class _Readable(io.BufferedReader):
    """A file whose impossible positions, which only damage asks for, are no errors of the system."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Seek, within reason."""
        if whence == 0 and offset < 0:
            raise ValueError("a position before the beginning of the file")
        return super().seek(offset, whence)


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


def _row_group_sizes(file: pq.ParquetFile) -> list[int]:
    # Nothing more is asked of a row group's metadata here: damage in a column's ends the process (pyarrow 26.0).
    counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if any(count < 0 for count in counts) or sum(counts) != file.metadata.num_rows:
        raise malformed(f"the file declares {file.metadata.num_rows:,} rows, and its row groups {sum(counts):,}")
    return counts


def _compare(name: str, first: pa.Field, found: pa.Field | None, first_file: DataFile, file: DataFile) -> None:
    if found is None:
        raise bad_file(file.name, f"has no column {quoted(name)}, which {quoted(first_file.name)} has")
    if found.type != first.type:
        text = f"holds {quoted(found.type)} values in column {quoted(name)}, and {quoted(first_file.name)} holds"
        raise bad_file(file.name, f"{text} {quoted(first.type)}: write the files with one schema")


@contextmanager
def damage_named() -> Iterator[None]:
    """Turn what pyarrow raises over a damaged file into DATASET_MALFORMED, or OUT_OF_MEMORY."""
    try:
        yield
    except MemoryError as error:
        text = "the Parquet file needs more memory than this machine has: write it with smaller row groups and pages"
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise malformed(f"the file is no Parquet file, or is damaged: {quoted(error)}; write it again") from error
