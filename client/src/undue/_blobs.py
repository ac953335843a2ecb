"""Bytes to send: known by size and sha256, read in chunks, never loaded whole."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ._errors import FailedPrecondition, InvalidArgument, invalid
from .v1 import uploads_pb2

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A file, or bytes in memory."""

    size: int
    sha256: str
    open: Callable[[], BinaryIO]
    """Opens it from the start; every attempt to send reads for itself."""
    label: str
    """What it is, for messages."""


def blob_of_bytes(content: bytes | memoryview, label: str) -> Blob:
    """Return the blob of bytes in memory."""
    view = memoryview(content).cast("B")
    return Blob(len(view), hashlib.sha256(view).hexdigest(), lambda: _MemoryReader(view), label)


def blob_of_file(path: Path, field: str) -> Blob:
    """Return the blob of a file, hashed as a stream.

    Raises:
        InvalidArgument: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise invalid(field, f"{path} cannot be read: {error.strerror or error}") from None
    return Blob(size, digest, lambda: path.open("rb"), str(path))


class Chunks:
    """The requests that send a blob from an offset on.

    gRPC runs the iterator on a thread of its own and reports a failure there as a status without a cause, so the cause
    is kept for `check`.
    """

    def __init__(self, blob: Blob, upload: str, offset: int) -> None:
        self._blob = blob
        self._upload = upload
        self._offset = offset
        self._error: OSError | None = None
        self._short = False

    def __iter__(self) -> Iterator[uploads_pb2.WriteUploadRequest]:
        """Yield chunks of at most 1 MiB, each with its sha256."""
        offset = self._offset
        try:
            with self._blob.open() as file:
                file.seek(offset)
                # Never more than was declared, though the file may have grown meanwhile.
                while data := file.read(min(CHUNK_BYTES, self._blob.size - offset)):
                    digest = hashlib.sha256(data).digest()
                    yield uploads_pb2.WriteUploadRequest(name=self._upload, offset=offset, data=data, sha256=digest)
                    offset += len(data)
            self._short = offset < self._blob.size
        except OSError as error:
            self._error = error

    def check(self) -> None:
        """Complain of the file, where it is the file's fault that the blob did not arrive.

        Raises:
            InvalidArgument: it cannot be read any more.
            FailedPrecondition: it has become shorter.
        """
        if self._error is not None:
            raise InvalidArgument(f"{self._blob.label} cannot be read: {self._error}", reason="INVALID_FIELD")
        if self._short:
            text = f"{self._blob.label} changed while it was being sent: register it again"
            raise FailedPrecondition(text, reason="UPLOAD_INCOMPLETE")


class _MemoryReader(io.RawIOBase, BinaryIO):
    """Reads a memoryview without copying it first, as BytesIO would."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        end = len(self._view) if size < 0 else self._position + size
        data = bytes(self._view[self._position : end])
        self._position += len(data)
        return data
