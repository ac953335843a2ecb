"""IDX files, as MNIST comes in: one array a file, its shape before its big-endian values; plain or gzipped.

00 00 | type | number of axes | one big-endian uint32 an axis | values, C order
"""

import gzip
import io
import os
import struct
import zlib
from math import prod
from typing import Any, BinaryIO, cast

import numpy as np

from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import SchemaSpec

from .files import DataFile
from .layout import check_column, check_exist, numeric_columns, text_columns
from .refusals import bad_column, malformed, quoted
from .scratch import Scratch
from .source import Array
from .table import TableSource
from .texts import ArrayTexts, Part, group_part

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_MAX_DEFLATE_RATIO = 1032
_CHUNK = 1 << 20


def open_idx(files: list[DataFile], spec: SchemaSpec, scratch: Scratch) -> TableSource:
    """Return the data set whose columns are files, each called what its file is called. Plain files are read in place.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a file that is no IDX file or of another size than it declares, and for
            columns that do not fit their part; COLUMN_NOT_FOUND; ROWS_MISMATCH.
        FailedPrecondition: DATASET_CHANGED.
        ResourceExhausted: UPLOAD_TOO_LARGE where it is beyond the limits; STORAGE_FULL.
    """
    named: dict[str, DataFile] = {}
    for file in files:
        if file.name in named:
            raise malformed(f"two files are called {quoted(file.name)}: give each column a name of its own")
        named[file.name] = file
    check_exist(spec, named)
    numbers, texts = numeric_columns(spec), text_columns(spec)
    arrays = {name: _read(named[name], scratch) for name in dict.fromkeys([*numbers, *texts])}
    ids = None if spec.id is None else ArrayTexts(arrays[spec.id], Part(spec.id))
    groups = {name: ArrayTexts(arrays[name], group_part(name)) for name in spec.groups}
    return TableSource(spec, {name: arrays[name] for name in numbers}, ids, groups)


def _read(data: DataFile, scratch: Scratch) -> Array:
    with io.BufferedReader(data.open()) as file:
        packed = file.peek(2)[:2] == _GZIP
        size = os.fstat(file.fileno()).st_size
        if not packed:
            dtype, shape, start = _header(file, data.name)
            declared = prod(shape) * dtype.itemsize
            if size - start != declared:
                raise bad_column(data.name, f"declares {declared:,} bytes of values and holds {size - start:,}")
            return np.memmap(file, dtype, "r", start, shape) if declared else np.empty(shape, dtype)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _unpacked(cast(BinaryIO, unpacked), data.name, size, scratch)
        except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
            raise bad_column(data.name, f"is no gzip file, or is damaged: {quoted(error)}; fetch it again") from error


def _unpacked(file: BinaryIO, name: str, packed_bytes: int, scratch: Scratch) -> Array:
    dtype, shape, _ = _header(file, name)
    declared = prod(shape) * dtype.itemsize
    if declared > packed_bytes * _MAX_DEFLATE_RATIO:
        text = f"declares {declared:,} bytes of values in {packed_bytes:,} compressed ones, which deflate cannot do"
        raise bad_column(name, text)
    written, left = scratch.file(), declared
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise bad_column(name, f"declares {declared:,} bytes of values and holds {declared - left:,}")
        written.write(chunk)
        left -= len(chunk)
    if file.read(1):  # at the end of the file gzip compares its checksum
        raise bad_column(name, f"holds more than the {declared:,} bytes of values that it declares")
    return written.mapped(dtype, shape)


def _header(file: BinaryIO, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return the type and shape of the values, and how many bytes come before them."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        text = "does not begin like an IDX file: two zero bytes, a type (08, 09, 0B to 0E) and the number of axes"
        raise bad_column(name, text)
    axes = magic[3]
    if axes == 0:
        raise bad_column(name, "is a single value; a column has one value a row")
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise bad_column(name, "ends within its header")
    dtype, shape = np.dtype(_TYPES[magic[2]]), struct.unpack(f">{axes}I", sizes)
    check_column(ColumnSchema(name, dtype.newbyteorder("=").name, shape[1:]))
    return dtype, shape, 4 + 4 * axes
