"""ZIP archives that are hostile until proven otherwise: what their tables of contents may say."""

import errno
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from .limits import too_large
from .refusals import malformed, quoted

_MAX_DEFLATE_RATIO = 1032
_ENCRYPTED = 0x1
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, struct.error, ValueError, OverflowError)


class BoundedFile(io.BufferedReader):
    """A file that bounds the one large read of `zipfile`: its table of contents."""

    def __init__(self, file: io.FileIO, max_directory_bytes: int) -> None:
        super().__init__(file)
        self._max_directory_bytes = max_directory_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, within bounds."""
        if size is not None and size > self._max_directory_bytes:
            raise too_large("the archive's table of contents in bytes", size, self._max_directory_bytes)
        return super().read(size)


def members(archive: zipfile.ZipFile, limit: int) -> dict[str, zipfile.ZipInfo]:
    """Return what an archive holds, by name.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a name that comes twice.
        ResourceExhausted: there are more than `limit`.
    """
    infos = archive.infolist()
    if len(infos) > limit:
        raise too_large("the number of members", len(infos), limit)
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename in found:
            raise malformed(f"the archive holds {quoted(info.filename)} twice: write it again with one of them")
        found[info.filename] = info
    return found


def packing_problem(info: zipfile.ZipInfo) -> str | None:
    """Say what is wrong with how a member is packed, if anything."""
    if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted or packed in a way that is not read"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return "is stored in a size other than its own"
    if info.file_size > info.compress_size * _MAX_DEFLATE_RATIO:
        declared = f"declares {info.file_size:,} bytes in {info.compress_size:,} compressed ones"
        return f"{declared}, which deflate cannot do"
    return None


@contextmanager
def damage_named(kind: str, advice: str) -> Iterator[None]:
    """Turn what `zipfile` raises over a damaged archive into DATASET_MALFORMED."""
    problem = f"the file is no {kind}, or is damaged: "
    try:
        yield
    except _DAMAGE as error:
        raise malformed(f"{problem}{quoted(error)}; {advice}") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # an offset before the beginning of the file
            raise malformed(f"{problem}{quoted(error)}; {advice}") from error
        raise
