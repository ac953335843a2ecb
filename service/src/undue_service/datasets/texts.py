"""Columns of text: the ids of rows, and the values by which rows are told apart into groups."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .limits import BLOCK_BYTES, MAX_TEXT_BYTES
from .refusals import bad_column, bad_value, quoted
from .source import Array, checked_rows


@dataclass(frozen=True, slots=True)
class Part:
    """What a column of text is called, and what one of its values is, for messages."""

    column: str
    value: str = "id"

    @property
    def values(self) -> str:
        """Several of them."""
        return f"{self.value}s"


def group_part(column: str) -> Part:
    """Return the part of a column of groups."""
    return Part(column, "group value")


class Texts(Protocol):
    """A column of text."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Return the texts of some rows, in the order given.

        Raises:
            InvalidArgument: DATASET_MALFORMED naming the first that is no text.
        """


class Utf8Texts:
    """Strings in a file, each ended by a NUL byte. Keeps 8 bytes a row in memory."""

    def __init__(self, content: Array, part: Part, rows: int) -> None:
        """Find where each string of the file's bytes starts.

        Raises:
            InvalidArgument: DATASET_MALFORMED where there are not exactly `rows` strings.
        """
        column, size = part.column, len(content)
        if rows > size:
            raise bad_column(column, f"declares {rows:,} strings in {size:,} bytes")
        self._part = part
        self._bytes = content
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
        """See Texts."""
        starts = np.where(rows > 0, self._ends[rows - 1] + 1, 0) if len(rows) else rows
        spans = zip(rows.tolist(), starts.tolist(), self._ends[rows].tolist(), strict=True)
        # One byte more than may be there is enough to refuse it.
        raw = ((row, self._bytes[start : min(end, start + MAX_TEXT_BYTES + 1)].tobytes()) for row, start, end in spans)
        return checked_texts(((row, decoded(text, self._part, row)) for row, text in raw), self._part)


class ArrayTexts:
    """An array of integers, or of strings of NumPy's kinds U or S."""

    def __init__(self, values: Array, part: Part) -> None:
        """Hold an array of one axis.

        Raises:
            InvalidArgument: DATASET_MALFORMED for any other array.
        """
        if values.ndim != 1 or values.dtype.kind not in "iuUS":
            text = f"is {values.dtype} of shape {values.shape}; {part.values} are strings or integers, one a row"
            raise bad_column(part.column, text)
        self._values = values
        self._part = part

    def __len__(self) -> int:
        return len(self._values)

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """See Texts."""
        values: Array = np.ascontiguousarray(self._values[rows])
        if values.dtype.kind in "iu":
            return [str(value) for value in values.tolist()]
        if values.dtype.kind == "U":
            _check_code_points(values, self._part, rows)
            return checked_texts(zip(rows.tolist(), values.tolist(), strict=True), self._part)
        pairs = zip(rows.tolist(), values.tolist(), strict=True)
        return checked_texts(((row, decoded(raw, self._part, row)) for row, raw in pairs), self._part)


class ListedTexts:
    """Texts that are held in memory, or few that come again and again: row i has `values[codes[i]]`."""

    def __init__(self, values: Sequence[str], codes: Array | None = None) -> None:
        """Hold checked texts; without codes, row i has `values[i]`."""
        self._values = values
        self._codes = codes

    def __len__(self) -> int:
        return len(self._values) if self._codes is None else len(self._codes)

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """See Texts."""
        return [self._values[place] for place in (rows if self._codes is None else self._codes[rows]).tolist()]


def take_ids(ids: Texts | None, rows: Iterable[int], length: int) -> list[str]:
    """Return the ids of some rows, or their numbers where there are none.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; DATASET_MALFORMED for an id that is no text.
    """
    wanted = checked_rows(rows if isinstance(rows, range) else list(rows), length)
    return [str(row) for row in wanted.tolist()] if ids is None else ids.take(wanted)


def checked_texts(pairs: Iterable[tuple[int, str]], part: Part) -> list[str]:
    """Return texts that come with their rows, if each can be an id or a group's value.

    Raises:
        InvalidArgument: DATASET_MALFORMED naming the first that cannot.
    """
    return list(_checked(pairs, part))


def decoded(raw: bytes, part: Part, row: int) -> str:
    """Return UTF-8 as text.

    Raises:
        InvalidArgument: DATASET_MALFORMED where it is too long or no UTF-8.
    """
    # Cut in the middle of a character, a text that is too long is still too long.
    if len(raw) > MAX_TEXT_BYTES:
        raise bad_value(part.column, row, f"the {part.value} is longer than {MAX_TEXT_BYTES:,} bytes of UTF-8")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise bad_value(part.column, row, f"the {part.value} is not valid UTF-8") from None


def _checked(pairs: Iterable[tuple[int, str]], part: Part) -> Iterator[str]:
    for row, text in pairs:
        if "\0" in text:
            raise bad_value(part.column, row, f"the {part.value} holds a NUL character")
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise bad_value(part.column, row, f"the {part.value} {quoted(text)} is not valid Unicode text") from None
        if size > MAX_TEXT_BYTES:
            raise bad_value(part.column, row, f"the {part.value} is longer than {MAX_TEXT_BYTES:,} bytes of UTF-8")
        yield text


def _check_code_points(values: npt.NDArray[Any], part: Part, rows: npt.NDArray[np.int64]) -> None:
    # NumPy makes strings of any 32-bit numbers, and Python encodes them without complaint.
    points = values.view(np.uint32).reshape(len(values), values.dtype.itemsize // 4)
    wrong = np.flatnonzero((points > 0x10FFFF).any(axis=1))
    if wrong.size:
        raise bad_value(part.column, int(rows[wrong[0]]), f"the {part.value} is not valid Unicode text")
