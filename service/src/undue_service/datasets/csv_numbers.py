"""What type the values of a CSV column have: decided over all of them, and the same however the file is cut in blocks.

bool     every value is true or false (in lower, upper or title case)
int64    every value is an integer of 64 bits: -?[0-9]+, but for −0
float64  every value is a number, in decimal or exponent notation; nan and inf are read, to be refused by name
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .refusals import bad_value, quoted
from .source import Array

_BOOLEANS = {b"true": 1, b"True": 1, b"TRUE": 1, b"false": 0, b"False": 0, b"FALSE": 0}
Kind = Literal["bool", "int64", "float64"]


class NumberColumn:
    """The cells of one column, 8 bytes each: integers until a value is none, floats from that block on."""

    def __init__(self, name: str) -> None:
        self.kind: Kind | None = None
        self.integer_rows = 0
        """How many rows at the beginning hold integers although the column is of floats."""
        self._name = name

    def cells(self, tokens: pa.BinaryArray, first_row: int) -> Array:
        """Return a block's cells, (B,), as int64 or float64.

        Raises:
            InvalidArgument: DATASET_MALFORMED naming the first row without a number.
        """
        if self.kind in (None, "bool"):
            cells = _booleans(tokens)
            if cells is not None:
                self.kind = "bool"
                return cells
        if self.kind != "bool":
            cells = _integers(tokens) if self.kind in (None, "int64") else None
            if cells is not None:
                self.kind = "int64"
                return cells
            cells = _floats(tokens)
            if cells is not None:
                if self.kind == "int64":
                    self.integer_rows = first_row
                self.kind = "float64"
                return cells
        raise self._problem(tokens, first_row)

    def _problem(self, tokens: pa.BinaryArray, first_row: int) -> Exception:
        held = self.kind
        for row, token in enumerate(tokens.to_pylist(), first_row):
            if not token.strip():
                return bad_value(self._name, row, "a value is missing: fill it in or drop the row")
            one = pa.array([token], pa.binary())
            kind = "bool" if _booleans(one) is not None else "number" if _floats(one) is not None else None
            text = quoted(token[:400].decode(errors="replace"))
            if kind is None:
                return bad_value(self._name, row, f"{text} is no number: encode text and categories as numbers first")
            if (held or kind) == "bool" and kind != "bool":
                return bad_value(self._name, row, f"{text} follows true and false: use 0 and 1, or those alone")
            if (held or kind) != "bool" and kind == "bool":
                return bad_value(self._name, row, f"{text} follows numbers: use 0 and 1, or true and false alone")
            held = "bool" if kind == "bool" else "float64"
        raise AssertionError("a block is refused for one of its values")


def _booleans(tokens: pa.BinaryArray) -> Array | None:
    if tokens[0].as_py().strip() not in _BOOLEANS:
        return None
    encoded = tokens.dictionary_encode()
    values = [_BOOLEANS.get(token.strip()) for token in encoded.dictionary.to_pylist()]
    if None in values:
        return None
    return np.array(values, np.int64)[encoded.indices.to_numpy()]


def _integers(tokens: pa.BinaryArray) -> Array | None:
    cells = _cast(tokens, pa.int64())
    if cells is None:
        cells = _cast(_trimmed(tokens), pa.int64())
    if cells is None:
        return None
    # Arrow takes 0x10 for 16, which is no float; and −0 is another float than 0.
    content = _content(tokens)
    if b"x" in content or b"X" in content:
        return None
    if b"-0" in content and any(not cell for cell, t in zip(cells, tokens.to_pylist(), strict=True) if b"-" in t):
        return None
    return cells


def _content(tokens: pa.BinaryArray) -> bytes:
    _, ends, content = tokens.buffers()
    if content is None:
        return b""
    bounds = np.frombuffer(ends, np.int32)[tokens.offset : tokens.offset + len(tokens) + 1]
    return bytes(memoryview(content)[bounds[0] : bounds[-1]])


def _floats(tokens: pa.BinaryArray) -> Array | None:
    cells = _cast(tokens, pa.float64())
    return _cast(_trimmed(tokens), pa.float64()) if cells is None else cells


def _cast(text: pa.Array, kind: pa.DataType) -> Array | None:
    try:
        return np.asarray(text.cast(kind))
    except pa.ArrowInvalid:
        return None


def _trimmed(tokens: pa.BinaryArray) -> pa.Array:
    _, ends, content = tokens.buffers()
    return pc.ascii_trim_whitespace(pa.StringArray.from_buffers(len(tokens), ends, content, None, 0, tokens.offset))
