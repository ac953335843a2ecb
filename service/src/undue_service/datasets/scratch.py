"""Files without a name, for what is unpacked or converted once to be read by row. They go with whoever holds them."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from undue_service.domain.errors import Reason, ResourceExhausted

from .limits import MAX_CONVERTED_BYTES, too_large
from .source import Array


class Scratch:
    """Where a data set may write."""

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_CONVERTED_BYTES) -> None:
        """Write in `folder`, or where the system keeps temporary files; at most `max_bytes` in all files together."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._used = 0

    def file(self) -> "ScratchFile":
        """Return a new file."""
        with _full_named():
            return ScratchFile(tempfile.TemporaryFile(dir=self._folder), self)

    def sparse(self, shape: tuple[int, ...]) -> "SparseRows":
        """Return room for rows of bytes that come in any order; it takes space as they come."""
        with _full_named():
            return SparseRows(tempfile.TemporaryFile(dir=self._folder), shape)

    def take(self, size: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            ResourceExhausted: UPLOAD_TOO_LARGE.
        """
        self._used += size
        if self._used > self._max_bytes:
            raise too_large("the unpacked data in bytes (write it as Parquet)", self._used, self._max_bytes)


class ScratchFile:
    """A file that is written from its beginning to its end, then mapped."""

    def __init__(self, file: Any, scratch: Scratch) -> None:
        self.size = 0
        self._file = file
        self._scratch = scratch

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            ResourceExhausted: UPLOAD_TOO_LARGE; STORAGE_FULL.
        """
        self._scratch.take(len(data))
        with _full_named():
            self._file.write(data)
        self.size += len(data)

    def mapped(self, dtype: np.dtype[Any], shape: tuple[int, ...], mode: str = "r") -> Array:
        """Return what was written as an array, which keeps the file's space until it goes itself."""
        with _full_named():
            self._file.flush()
        if 0 in shape:  # nothing cannot be mapped
            return np.empty(shape, dtype)
        return np.memmap(self._file, dtype, mode, shape=shape)  # type: ignore[call-overload, no-any-return]


class SparseRows:
    """Rows of one shape on disk, each written once."""

    def __init__(self, file: Any, shape: tuple[int, ...]) -> None:
        self._file = file
        self._row_bytes = prod(shape[1:])
        os.ftruncate(file.fileno(), shape[0] * self._row_bytes)
        self.rows: Array = np.memmap(file, np.uint8, "r", shape=shape)

    def put(self, row: int, values: Array) -> None:
        """Write one row. Written rather than mapped: a full disk is then an error and no signal.

        Raises:
            ResourceExhausted: STORAGE_FULL.
        """
        data, at = np.ascontiguousarray(values).reshape(-1).data, row * self._row_bytes
        with _full_named():
            while len(data):
                written = os.pwrite(self._file.fileno(), data, at)
                data, at = data[written:], at + written


@contextmanager
def _full_named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        text = "the disk has no room to unpack the data set: free some, or register it as Parquet, which needs none"
        raise ResourceExhausted(Reason.STORAGE_FULL, text) from error
