"""The header of the NPY format, versions 1.0 to 3.0 (NEP 1), read as a strict grammar: nothing is evaluated."""

import re
import struct
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import MAGIC_LEN, MAGIC_PREFIX

from .limits import MAX_NPY_HEADER_BYTES, MAX_TEXT_BYTES
from .refusals import bad_column, quoted

_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}
_ITEM = re.compile(
    r"""\s*['"](?P<key>descr|fortran_order|shape)['"]\s*:\s*"""
    r"""(?:['"](?P<descr>[^'"]*)['"]|(?P<order>True|False)|\((?P<shape>[\d\s,L]*)\))\s*(?:,|$)"""
)
_DTYPE = re.compile(r"(?P<endian>[<>|])(?P<kind>[biufUS])(?P<size>\d{1,9})")
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}
_MAX_DIGITS = 19


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a member declares."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    raw: bytes
    """The header itself, magic included; the values follow it."""

    @property
    def value_bytes(self) -> int:
        """Size of the values."""
        return prod(self.shape) * self.dtype.itemsize


def read_header(stream: BinaryIO, column: str) -> NpyHeader:
    """Read the header of one array, leaving the stream at its values.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a header that is damaged, too long, or of a type that is not read.
    """
    prefix = _read(stream, MAGIC_LEN, column)
    layout = _LENGTHS.get(prefix[len(MAGIC_PREFIX) :])
    if not prefix.startswith(MAGIC_PREFIX) or layout is None:
        raise bad_column(column, "does not begin like an .npy array of version 1, 2 or 3")
    counted = _read(stream, struct.calcsize(layout), column)
    (length,) = struct.unpack(layout, counted)
    if length > MAX_NPY_HEADER_BYTES:
        text = f"has a header of {length:,} bytes, the limit is {MAX_NPY_HEADER_BYTES:,}"
        raise bad_column(column, text)
    described = _read(stream, length, column)
    fields = _fields(described.decode("latin1"), column)
    return NpyHeader(
        dtype=_dtype(fields["descr"], column),
        shape=_shape(fields["shape"], column),
        fortran_order=fields["fortran_order"] == "True",
        raw=prefix + counted + described,
    )


def _read(stream: BinaryIO, size: int, column: str) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise bad_column(column, "ends within its header")
    return data


def _fields(text: str, column: str) -> dict[str, str]:
    plain = text.strip()
    body = plain[1:-1].strip() if plain.startswith("{") and plain.endswith("}") else ""
    fields: dict[str, str] = {}
    at = 0
    while at < len(body) and (item := _ITEM.match(body, at)) is not None:
        key = item["key"]
        value = item[{"descr": "descr", "fortran_order": "order", "shape": "shape"}[key]]
        if value is None or key in fields:
            break
        fields[key], at = value, item.end()
    if at < len(body) or len(fields) != 3:
        advice = "save a structured array field by field, each as an array of its own"
        raise bad_column(column, f"has a header that is not read, {quoted(plain)}: {advice}")
    return fields


def _dtype(descr: str, column: str) -> np.dtype[Any]:
    if "O" in descr:
        advice = "save numbers with a numeric dtype, and ids as strings: values.astype(str)"
        raise bad_column(column, f"is an object array, which only pickle can read: {advice}")
    found = _DTYPE.fullmatch(descr)
    if found is not None:
        kind, size = found["kind"], int(found["size"])
        one_byte = size == 1 or kind == "S"
        if (size in _SIZES.get(kind, ()) or (kind in "US" and 0 < size <= MAX_TEXT_BYTES)) and (
            one_byte or found["endian"] != "|"
        ):
            return np.dtype(descr)
    raise bad_column(column, f"is of type {quoted(descr)}, which is not read")


def _shape(text: str, column: str) -> tuple[int, ...]:
    sizes = [size.strip().removesuffix("L") for size in text.split(",") if size.strip()]
    if any(not size.isdecimal() or len(size) > _MAX_DIGITS for size in sizes):
        raise bad_column(column, f"has a shape that is not read, {quoted(text)}")
    return tuple(map(int, sizes))
