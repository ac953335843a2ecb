"""The records of CSV files (RFC 4180), block by block, each value as the bytes that the file has."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, open_csv

from undue_service.domain.errors import Error, InvalidArgument

from .files import DataFile
from .limits import MAX_COLUMNS, MAX_CONVERTED_BYTES, MAX_LINE_BYTES, too_large
from .refusals import bad_column, bad_file, quoted

_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_WRONG_LENGTH = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_ADVICE = "write it again as RFC 4180 says"


def header(data: DataFile) -> list[str]:
    """Return the names of the columns.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a first line that is none of names, or that names a column twice.
        FailedPrecondition: DATASET_CHANGED.
        ResourceExhausted: there are too many.
    """
    with closing(_Text(data)) as file:
        begin = file.read(MAX_LINE_BYTES).removeprefix(_UTF8_MARK)
    try:
        # What follows the first line, or is cut off in a character, is not looked at: only the names must be UTF-8.
        text = io.StringIO(begin.decode(errors="surrogateescape"), newline="")
        names = next(csv.reader(text, strict=True), [])
        "".join(names).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        raise bad_file(data.name, f"does not begin with a line of column names: {quoted(error)}; {_ADVICE}") from error
    if not any(names):
        raise bad_file(data.name, "does not begin with a line of column names")
    if len(names) > MAX_COLUMNS:
        raise too_large("the number of columns", len(names), MAX_COLUMNS)
    seen: set[str] = set()
    for name in names:
        if name in seen and name:  # columns without a name are harmless: no schema can mean them
            raise bad_column(name, f"appears twice in file {quoted(data.name)}: rename one of them")
        seen.add(name)
    return names


def records(data: DataFile, names: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield blocks of the `wanted` columns as bytes, each with the number of its first row in this file.

    `names` is the file's header. Empty lines are passed over. Memory stays at a few blocks of `MAX_LINE_BYTES`.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a row of another length than the header, a line without end, a quote
            that is not closed.
    """
    places = [str(names.index(name)) for name in wanted]
    with closing(_Text(data)) as text:
        try:
            reader = open_csv(
                pa.PythonFile(text, "r"),
                ReadOptions(use_threads=False, block_size=MAX_LINE_BYTES, column_names=[*map(str, range(len(names)))]),
                ParseOptions(newlines_in_values=True),
                ConvertOptions(
                    check_utf8=False,
                    column_types=dict.fromkeys(places, pa.binary()),
                    include_columns=places,
                    null_values=[],
                    strings_can_be_null=False,
                ),
            )
            with closing(reader):
                yield from _without_header(reader, data.name, wanted)
        except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
            if text.error is not None:
                raise text.error from error
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _damaged(data.name, error) from error
        if text.quotes % 2:
            raise bad_file(data.name, f"has a quote that is not closed; {_ADVICE}")


def _without_header(reader: Any, name: str, wanted: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    row = -1
    for batch in reader:
        if row == -1 and batch.num_rows:
            found = [column[0].as_py().decode(errors="replace") for column in batch.columns]
            if found != list(wanted):  # two parsers must see the same first line
                raise bad_file(name, f"has a first line that can be read in two ways; {_ADVICE}")
            batch, row = batch.slice(1), 0
        if batch.num_rows:
            yield row, batch
            row += batch.num_rows


def _damaged(name: str, error: Exception) -> InvalidArgument:
    said = str(error)
    row = _WRONG_LENGTH.search(said)
    if row is not None:
        where, expected, actual, text = row.groups()
        shape = f"has {int(actual):,} values where the header names {int(expected):,}"
        return bad_file(name, f"{shape}, at row {int(where) - 2:,}: {quoted(text)}")
    if "straddl" in said:
        text = f"has a line of more than {MAX_LINE_BYTES:,} bytes, or a quote that is not closed"
        return bad_file(name, f"{text}; {_ADVICE}")
    return bad_file(name, f"is no CSV file, or is damaged: {quoted(said)}; {_ADVICE}")


class _Text:
    """What pyarrow reads, from a thread of its own: the file's bytes, unpacked, with its quotes counted."""

    def __init__(self, data: DataFile) -> None:
        self.quotes = 0
        self.error: Error | None = None
        self._name = data.name
        self._begun = False
        self._raw = io.BufferedReader(data.open())
        packed = self._raw.peek(2)[:2] == _GZIP
        self._file: Any = gzip.GzipFile(fileobj=self._raw) if packed else self._raw
        self._left = MAX_CONVERTED_BYTES if packed else None

    @property
    def closed(self) -> bool:
        return bool(self._raw.closed)

    def read(self, size: int) -> bytes:
        try:
            chunk = self._read(size)
        except Error as error:
            self.error = error
            raise
        self.quotes += chunk.count(b'"')
        return chunk

    def close(self) -> None:
        self._raw.close()

    def _read(self, size: int) -> bytes:
        try:
            chunk: bytes = self._file.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise bad_file(self._name, f"is no gzip file, or is damaged: {quoted(error)}") from error
        if not self._begun and chunk.startswith(_UTF16_MARKS):
            raise bad_file(self._name, "is UTF-16 text: save it as UTF-8")
        self._begun = True
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                what = f"the text in file {quoted(self._name)} in bytes, once unpacked,"
                raise too_large(what, MAX_CONVERTED_BYTES - self._left, MAX_CONVERTED_BYTES)
        return chunk
