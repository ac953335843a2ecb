"""The ids of rows, as text."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .limits import BLOCK_BYTES, MAX_ID_BYTES
from .refusals import bad_column, bad_value, quoted
from .source import Array, checked_rows


class Ids(Protocol):
    """A column of ids."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the ids of some rows, in the order given.

        Raises:
            InvalidArgument: DATASET_MALFORMED naming the first that is no text.
        """


class Utf8Ids:
    """Strings in a file, each ended by a NUL byte. Keeps 8 bytes a row in memory."""

    def __init__(self, path: Path, column: str, rows: int) -> None:
        """Find where each string starts.

        Raises:
            InvalidArgument: DATASET_MALFORMED where the file does not hold exactly `rows` strings.
        """
        size = path.stat().st_size
        if rows > size:
            raise bad_column(column, f"declares {rows:,} strings in {size:,} bytes")
        self._column = column
        self._bytes: Array = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
        self._ends = np.empty(rows, np.int64)
        found = 0
        for start in range(0, size, BLOCK_BYTES):
            ends = start + np.flatnonzero(self._bytes[start : start + BLOCK_BYTES] == 0)
            if found + len(ends) > rows:
                raise bad_column(column, f"holds more strings than the {rows:,} declared")
            self._ends[found : found + len(ends)] = ends
            found += len(ends)
        if found < rows:
            raise bad_column(column, f"holds {found:,} strings where {rows:,} are declared")
        if size != (self._ends[-1] + 1 if rows else 0):
            raise bad_column(column, "ends in a string without its NUL byte")

    def __len__(self) -> int:
        return len(self._ends)

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """See Ids."""
        starts = np.where(rows > 0, self._ends[rows - 1] + 1, 0) if len(rows) else rows
        spans = zip(rows.tolist(), starts.tolist(), self._ends[rows].tolist(), strict=True)
        # One byte more than may be there is enough to refuse it.
        raw = ((row, self._bytes[start : min(end, start + MAX_ID_BYTES + 1)].tobytes()) for row, start, end in spans)
        return checked_ids(((row, _decoded(text, self._column, row)) for row, text in raw), self._column)


class ArrayIds:
    """An array of integers, or of strings of NumPy's kinds U or S."""

    def __init__(self, values: Array, column: str) -> None:
        """Hold an array of one axis.

        Raises:
            InvalidArgument: DATASET_MALFORMED for any other array.
        """
        if values.ndim != 1 or values.dtype.kind not in "iuUS":
            text = f"is {values.dtype} of shape {values.shape}; ids are strings or integers, one a row"
            raise bad_column(column, text)
        self._values = values
        self._column = column

    def __len__(self) -> int:
        return len(self._values)

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """See Ids."""
        values: Array = np.ascontiguousarray(self._values[rows])
        if values.dtype.kind in "iu":
            return [str(value) for value in values.tolist()]
        if values.dtype.kind == "U":
            _check_code_points(values, self._column, rows)
            return checked_ids(zip(rows.tolist(), values.tolist(), strict=True), self._column)
        pairs = zip(rows.tolist(), values.tolist(), strict=True)
        return checked_ids(((row, _decoded(raw, self._column, row)) for row, raw in pairs), self._column)


def take_ids(ids: Ids | None, rows: Iterable[int], length: int) -> list[str]:
    """Return the ids of some rows, or their numbers where there are none.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; DATASET_MALFORMED for an id that is no text.
    """
    wanted = checked_rows(rows if isinstance(rows, range) else list(rows), length)
    return [str(row) for row in wanted.tolist()] if ids is None else ids.take(wanted)


def checked_ids(pairs: Iterable[tuple[int, str]], column: str) -> list[str]:
    """Return texts that come with their rows, if each can be an id.

    Raises:
        InvalidArgument: DATASET_MALFORMED naming the first that cannot.
    """
    return list(_checked(pairs, column))


def _checked(pairs: Iterable[tuple[int, str]], column: str) -> Iterator[str]:
    for row, text in pairs:
        if "\0" in text:
            raise bad_value(column, row, "the id holds a NUL character")
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise bad_value(column, row, f"the id {quoted(text)} is not valid Unicode text") from None
        if size > MAX_ID_BYTES:
            raise bad_value(column, row, f"the id is longer than {MAX_ID_BYTES:,} bytes of UTF-8")
        yield text


def _decoded(raw: bytes, column: str, row: int) -> str:
    # Cut in the middle of a character, an id that is too long is still too long.
    if len(raw) > MAX_ID_BYTES:
        raise bad_value(column, row, f"the id is longer than {MAX_ID_BYTES:,} bytes of UTF-8")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise bad_value(column, row, "the id is not valid UTF-8") from None


def _check_code_points(values: npt.NDArray[Any], column: str, rows: npt.NDArray[np.int64]) -> None:
    # NumPy makes strings of any 32-bit numbers, and Python encodes them without complaint.
    points = values.view(np.uint32).reshape(len(values), values.dtype.itemsize // 4)
    wrong = np.flatnonzero((points > 0x10FFFF).any(axis=1))
    if wrong.size:
        raise bad_value(column, int(rows[wrong[0]]), "the id is not valid Unicode text")
