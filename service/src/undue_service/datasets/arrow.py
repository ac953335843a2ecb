"""Arrow columns as NumPy arrays: numbers, and lists of them that are all of one shape."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from undue_service.domain.errors import InvalidArgument

from .dtypes import LISTED, NUMERIC
from .limits import MAX_RANK, too_large
from .refusals import bad_column, bad_value, quoted
from .source import Array
from .texts import Part, checked_texts

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_NUMBERS: dict[Any, str] = {pa.from_numpy_dtype(dtype): name for name, dtype in NUMERIC.items()}


def leaf_dtype(column: str, kind: pa.DataType) -> str:
    """Return the type of a column's elements, within however many lists, by NumPy's name.

    Raises:
        InvalidArgument: DATASET_MALFORMED for elements that are no numbers.
        ResourceExhausted: too many lists within lists.
    """
    leaf, rank = kind, 0
    while any(is_list(leaf) for is_list in _LISTS):
        leaf, rank = leaf.value_type, rank + 1
    if rank > MAX_RANK:
        raise too_large(f"the number of axes of column {quoted(column)}", rank, MAX_RANK)
    if pa.types.is_dictionary(leaf) and rank == 0:
        leaf = leaf.value_type
    if leaf not in _NUMBERS:
        advice = "encode text and categories as numbers first" if _is_text(leaf) else "cast it first"
        text = f"holds {quoted(leaf)} values; a model's data is one of {LISTED}: {advice}"
        raise bad_column(column, text)
    return _NUMBERS[leaf]


def check_text_type(part: Part, kind: pa.DataType) -> None:
    """Refuse a column that cannot hold ids or groups.

    Raises:
        InvalidArgument: DATASET_MALFORMED for anything but strings and integers.
    """
    leaf = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (_is_text(leaf) or pa.types.is_integer(leaf)):
        raise bad_column(part.column, f"holds {quoted(kind)} values; {part.values} are strings or integers")


def row_shape(column: str, values: pa.Array) -> tuple[int, ...]:
    """Return the shape of the first row of a column, which every other row must have.

    Raises:
        InvalidArgument: DATASET_MALFORMED where the first row is null.
    """
    shape: list[int] = []
    level = values.slice(0, 1)
    while any(is_list(level.type) for is_list in _LISTS):
        _refuse_nulls(column, level, 0, 1)
        shape.append(pc.list_value_length(level)[0].as_py() if len(level) else 0)
        level = level.flatten()
    return tuple(shape)


def to_numpy(column: str, values: pa.Array, shape: tuple[int, ...], first_row: int) -> Array:
    """Return a block of a column as an array (B, *shape).

    Raises:
        InvalidArgument: DATASET_MALFORMED naming the first row that is null, holds a null, or has another shape.
    """
    rows, per_row, level = len(values), 1, values
    for axis, size in enumerate(shape):
        _refuse_nulls(column, level, first_row, per_row)
        lengths = pc.list_value_length(level).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != size)
        if wrong.size:
            text = f"a list of {lengths[wrong[0]]} on axis {axis} where row 0 has {size}: pad the lists to one shape"
            raise bad_value(column, first_row + int(wrong[0]) // per_row, text)
        level, per_row = level.flatten(), per_row * size
    if pa.types.is_dictionary(level.type):
        level = level.dictionary_decode()
    _refuse_nulls(column, level, first_row, per_row)
    array = np.asarray(level.to_numpy(zero_copy_only=False)).reshape(rows, *shape)
    array.setflags(write=False)
    return array


def to_texts(part: Part, values: pa.Array, first_row: int) -> npt.NDArray[np.object_]:
    """Return a block of ids or groups as text, (B,). Equal texts are one object.

    Raises:
        InvalidArgument: DATASET_MALFORMED naming the first row without a valid text.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    _refuse_nulls(part.column, values, first_row, 1)
    encoded = values.dictionary_encode()
    places = encoded.indices.to_numpy()
    # A dictionary is in the order in which its values first come, so the first that is wrong is in the first row.
    rows = first_row + np.unique(places, return_index=True)[1]
    distinct = np.empty(len(encoded.dictionary), np.object_)
    distinct[:] = checked_texts(zip(rows.tolist(), _texts(part, encoded.dictionary, rows), strict=True), part)
    texts = distinct[places]
    texts.setflags(write=False)
    return texts


def _texts(part: Part, values: pa.Array, rows: npt.NDArray[np.int64]) -> list[str]:
    try:
        return [str(value) for value in values.to_pylist()]
    except UnicodeDecodeError:
        for row, scalar in zip(rows.tolist(), values, strict=True):
            try:
                scalar.as_py()
            except UnicodeDecodeError:
                raise bad_value(part.column, row, f"the {part.value} is not valid UTF-8") from None
        raise


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _refuse_nulls(column: str, values: pa.Array, first_row: int, per_row: int) -> None:
    if values.null_count:
        at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise _null(column, first_row + at // per_row)


def _null(column: str, row: int) -> InvalidArgument:
    return bad_value(column, row, "a value is missing (null): fill it in or drop the row")
