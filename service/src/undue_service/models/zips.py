"""Zip files from strangers."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .limits import MAX_ENTRIES, too_large
from .refusals import malformed, quoted

ZIP_START = b"PK\x03\x04"
_DIRECTORY_BYTES = 512 * MAX_ENTRIES
"""Bound on a zip's table of contents, before it is read."""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file whose table of contents is within bounds.

    Raises:
        InvalidArgument: MODEL_MALFORMED.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    with path.open("rb") as raw:
        _check_directory(raw)
        try:
            file = zipfile.ZipFile(raw)
        except Exception as error:
            raise _truncated(error) from error
        with file:
            yield file


def _check_directory(raw: BinaryIO) -> None:
    """Bound the table of contents before `zipfile.ZipFile` reads all of it."""
    try:
        end = zipfile._EndRecData(raw)  # type: ignore[attr-defined]  # no public name
    except Exception as error:
        raise _truncated(error) from error
    if end is None:
        raise malformed("the archive is truncated: it has no table of contents")
    if end[5] > _DIRECTORY_BYTES:
        raise too_large("the archive's table of contents in bytes", end[5], _DIRECTORY_BYTES)


def _truncated(error: Exception) -> Exception:
    return malformed(f"the archive is truncated, or not a zip file: {quoted(error)}")
