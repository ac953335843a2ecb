"""Arrays of the caller to the tensors of the API, and back."""

import math
import numbers
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import Internal, invalid
from .v1 import tensors_pb2

INLINE_BYTES = 64 * 1024
"""Content up to this size travels inside its message; longer content is uploaded."""

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NAMES = ("bool", *_INTEGERS, "float16", "float32", "float64")
_TYPES = {name: tensors_pb2.DataType.Value(f"DATA_TYPE_{name.upper()}") for name in _NAMES}
_NAMES_BY_TYPE = {number: name for name, number in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Encoded:
    """An array whose bytes are little-endian and in C order."""

    dtype: tensors_pb2.DataType.ValueType
    shape: tuple[int, ...]
    content: memoryview

    @property
    def rows(self) -> int:
        """Size of the first axis."""
        return self.shape[0]


def encode(field: str, value: object) -> Encoded:
    """Return an array of numbers, ready to send. Contiguous little-endian input is not copied.

    Raises:
        InvalidArgument: it is not an array of numbers with rows.
    """
    array = as_array(field, value)
    if array.ndim == 0:
        raise invalid(field, "must have rows; wrap a single value in a list")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise invalid(field, f"elements are {array.dtype}; send {', '.join(_NAMES[:-1])} or {_NAMES[-1]}{_hint(array)}")
    name = array.dtype.newbyteorder("=").name
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return Encoded(_TYPES[name], array.shape, little.reshape(-1).view(np.uint8).data)


def encode_texts(field: str, value: object) -> Encoded:
    """Return the ids or groups of rows as UTF-8 strings, each ended by one NUL byte. Integers are written in decimal.

    Raises:
        InvalidArgument: they are not strings or integers along one axis.
    """
    array = as_array(field, value)
    if array.ndim != 1:
        raise invalid(field, f"must have one axis, not shape {array.shape}")
    content = bytearray()
    for row, item in enumerate(array.tolist()):
        # An object array, as of a data frame, may hold NumPy's integers.
        if isinstance(item, bool) or not isinstance(item, (str, numbers.Integral)):
            raise invalid(field, f"row {row} is {item!r}; send strings or integers{_hint_for_texts(item)}")
        text = item if isinstance(item, str) else str(int(item))
        if "\0" in text:
            raise invalid(field, f"row {row} holds a NUL character, which ends a text")
        try:
            content += text.encode() + b"\0"
        except UnicodeEncodeError:
            raise invalid(field, f"row {row} is {text!r}, which is not valid Unicode text") from None
    return Encoded(tensors_pb2.DATA_TYPE_UTF8, array.shape, memoryview(bytes(content)))


def checked_rows(parts: Sequence[tuple[str, Encoded]]) -> int:
    """Return how many rows some arrays have, each with the name of its field.

    Raises:
        InvalidArgument: ROWS_MISMATCH.
    """
    first, counted = parts[0]
    for field, array in parts:
        if array.rows != counted.rows:
            raise invalid(field, f"has {array.rows} rows where {first} has {counted.rows}", reason="ROWS_MISMATCH")
    return counted.rows


def decode(tensor: tensors_pb2.Tensor) -> npt.NDArray[Any]:
    """Return the array of a tensor of numbers that carries its content.

    Raises:
        Internal: size, type and shape do not fit together.
    """
    if tensor.dtype not in _NAMES_BY_TYPE:
        raise Internal(f"the service sent an array of type {dtype_name(tensor.dtype)!r}, which this SDK does not read")
    dtype = np.dtype(_NAMES_BY_TYPE[tensor.dtype]).newbyteorder("<")
    shape = tuple(tensor.shape)
    expected = dtype.itemsize
    for size in shape:
        expected *= size
    if min(shape, default=0) < 0 or len(tensor.data) != expected:
        raise Internal(f"the service sent {len(tensor.data)} bytes for an array of shape {shape} and type {dtype.name}")
    return np.frombuffer(tensor.data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def decode_texts(tensor: tensors_pb2.Tensor) -> list[str]:
    """Return the strings of a tensor that carries its content.

    Raises:
        Internal: it holds another number of strings than it says, or no strings.
    """
    texts = tensor.data.decode().split("\0")
    if tensor.dtype != tensors_pb2.DATA_TYPE_UTF8 or list(tensor.shape) != [len(texts) - 1] or texts[-1]:
        raise Internal(f"the service sent {len(texts) - 1} strings where it declared an array of {list(tensor.shape)}")
    return texts[:-1]


def dtype_name(dtype: tensors_pb2.DataType.ValueType) -> str:
    """Return NumPy's name of an element type; "utf8" for strings, "" where none was given."""
    if dtype == tensors_pb2.DATA_TYPE_UNSPECIFIED or dtype not in tensors_pb2.DataType.values():
        return ""
    return tensors_pb2.DataType.Name(dtype).removeprefix("DATA_TYPE_").lower()


def as_array(field: str, value: object) -> npt.NDArray[Any]:
    """Return an array, from a tensor of torch wherever it is.

    Raises:
        InvalidArgument: it is none.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor: Any = value.detach().cpu()
        if tensor.dtype is torch.bfloat16:
            raise invalid(field, "NumPy has no bfloat16; send .float(), which keeps every value")
        value = tensor
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise invalid(field, f"is no array: {error}") from None


def _hint_for_texts(item: object) -> str:
    missing = item is None or type(item).__name__ in ("NAType", "NaTType")
    if missing or (isinstance(item, float) and math.isnan(item)):
        return " (fill what is missing first, such as with 'unknown')"
    if isinstance(item, float):
        return " (.astype('int64') where they are whole)"
    return ""


def _hint(array: npt.NDArray[Any]) -> str:
    if array.dtype.kind == "O":
        return " (an object array often means missing values or columns of several kinds)"
    if array.dtype.kind in "US":
        return " (encode text as numbers first; class labels are 0, 1, …)"
    if array.dtype.kind == "f":
        return "; .astype('float64') keeps what fits"
    return ""
