"""NPZ archives: a zip of .npy arrays. Stored members are mapped, compressed ones loaded once; nothing is unpickled."""

import os
import struct
import zipfile
import zlib
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import SchemaSpec

from .archives import BoundedFile, damage_named, members, packing_problem
from .files import DataFile
from .layout import check_column, check_exist, numeric_columns, text_columns
from .limits import MAX_COLUMNS, MAX_DIRECTORY_BYTES, MAX_LOADED_BYTES, too_large
from .npy import NpyHeader, read_header
from .refusals import bad_column, quoted
from .source import Array
from .table import TableSource
from .texts import ArrayTexts, Part, group_part

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def open_npz(data: DataFile, spec: SchemaSpec, max_bytes: int = MAX_LOADED_BYTES) -> TableSource:
    """Return the data set in an archive. At most `max_bytes` of compressed arrays are held in memory.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a damaged archive, object arrays, or columns that do not fit their part;
            COLUMN_NOT_FOUND; ROWS_MISMATCH.
        FailedPrecondition: DATASET_CHANGED.
        ResourceExhausted: UPLOAD_TOO_LARGE where it is beyond the limits.
    """
    with (
        data.open() as raw,
        damage_named("NPZ archive", "write it again with numpy.savez"),
        BoundedFile(raw, MAX_DIRECTORY_BYTES) as file,
        zipfile.ZipFile(file) as archive,
    ):
        found = members(archive, MAX_COLUMNS)
        arrays = {name.removesuffix(".npy"): info for name, info in found.items() if name.endswith(".npy")}
        check_exist(spec, arrays)
        reader = _Reader(file, archive, max_bytes)
        columns = {name: reader.read(name, arrays[name]) for name in numeric_columns(spec)}
        texts = {name: reader.read_text(name, arrays[name]) for name in text_columns(spec)}
    ids = None if spec.id is None else ArrayTexts(texts[spec.id], Part(spec.id))
    return TableSource(spec, columns, ids, {name: ArrayTexts(texts[name], group_part(name)) for name in spec.groups})


class _Reader:
    def __init__(self, file: BoundedFile, archive: zipfile.ZipFile, max_bytes: int) -> None:
        self._file = file
        self._archive = archive
        self._max_bytes = max_bytes
        self._loaded = 0

    def read(self, name: str, info: zipfile.ZipInfo) -> "Array | _MappedMember":
        """Return a column of numbers; a stored one is checked against its CRC when it is first read through."""
        offset, header = self._header(name, info)
        _check_numbers(name, header)
        if offset is None or header.fortran_order or header.value_bytes == 0:
            return self._load(name, info, header)
        values = np.memmap(self._file, header.dtype, "r", offset + len(header.raw), header.shape)
        return _MappedMember(name, values, header, info.CRC)

    def read_text(self, name: str, info: zipfile.ZipInfo) -> Array:
        """Return a column of ids or groups, which is loaded however it is stored."""
        _, header = self._header(name, info)
        return self._load(name, info, header)

    def _header(self, name: str, info: zipfile.ZipInfo) -> tuple[int | None, NpyHeader]:
        problem = packing_problem(info)
        if problem is not None:
            raise bad_column(name, f"{problem}: write the archive with numpy.savez or numpy.savez_compressed")
        offset = None
        if info.compress_type == zipfile.ZIP_STORED:
            offset = self._stored_at(name, info)
            self._file.seek(offset)
            header = read_header(self._file, name)
        else:
            with self._archive.open(info) as stream:
                header = read_header(cast(BinaryIO, stream), name)
        if not header.shape:
            raise bad_column(name, "is a single value; a column has one value a row")
        if len(header.raw) + header.value_bytes != info.file_size:
            text = f"declares {header.dtype} of shape {header.shape}, {header.value_bytes:,} bytes,"
            raise bad_column(name, f"{text} but holds {info.file_size - len(header.raw):,}")
        return offset, header

    def _stored_at(self, name: str, info: zipfile.ZipInfo) -> int:
        with self._archive.open(info):  # checks the local header against the directory
            pass
        self._file.seek(info.header_offset)
        fields = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        offset = int(info.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1])
        if offset + info.file_size > os.fstat(self._file.fileno()).st_size:
            raise bad_column(name, "reaches beyond the end of the file")
        return offset

    def _load(self, name: str, info: zipfile.ZipInfo, header: NpyHeader) -> Array:
        self._loaded += header.value_bytes
        if self._loaded > self._max_bytes:
            what = f"the data to hold in memory up to column {quoted(name)}"
            advice = "numpy.savez does not compress, and is read in place"
            raise too_large(f"{what} ({advice})", self._loaded, self._max_bytes)
        values = np.empty(header.value_bytes, np.uint8)
        filled = 0
        with self._archive.open(info) as stream:
            stream.read(len(header.raw))
            while filled < len(values):
                count = cast(zipfile.ZipExtFile, stream).readinto(values.data[filled : filled + (1 << 20)])
                if not count:
                    raise bad_column(name, f"ends after {filled:,} of {len(values):,} bytes")
                filled += count
            stream.read(1)  # at the end of the member zipfile compares its CRC
        shaped = values.view(header.dtype).reshape(header.shape, order="F" if header.fortran_order else "C")
        shaped = np.ascontiguousarray(shaped)
        shaped.setflags(write=False)
        return shaped


class _MappedMember:
    """A stored member in place. Reading it through in order, as validation does, also checks its CRC."""

    def __init__(self, name: str, values: Array, header: NpyHeader, crc: int) -> None:
        self._name = name
        self._values = values
        self._expected = crc
        self._begin = zlib.crc32(header.raw)
        self._state = self._begin
        self._next = 0
        self._verified = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._values.shape

    def __getitem__(self, at: slice | npt.NDArray[np.int64]) -> Array:
        block: Array = self._values[at]
        if not self._verified and isinstance(at, slice):
            self._follow(at, block)
        return block

    def _follow(self, at: slice, block: Array) -> None:
        if at.start == 0:
            self._state, self._next = self._begin, 0
        if at.start != self._next:
            return
        self._state = zlib.crc32(block.reshape(-1).view(np.uint8).data, self._state)
        self._next += len(block)
        if self._next == len(self._values):
            if self._state != self._expected:
                raise bad_column(self._name, "does not match its checksum: the file is damaged")
            self._verified = True


def _check_numbers(name: str, header: NpyHeader) -> None:
    check_column(ColumnSchema(name, header.dtype.newbyteorder("=").name, header.shape[1:]))
