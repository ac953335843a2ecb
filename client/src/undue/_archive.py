"""A folder of images as one file: a ZIP that is the same whenever the images are."""

import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ._errors import invalid

_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""When every file of the archive was changed: the images count, not when they were copied."""


def pack(folder: Path, scratch: Path) -> Path:
    """Write the files below a folder into an uncompressed ZIP in `scratch`, a piece at a time; return its path.

    The archive depends on the files' paths and contents alone, so that the service recognises one that it has. Names
    that start with a dot are passed over; links are followed.

    Raises:
        InvalidArgument: there is no file, or something that cannot be read.
    """
    target = scratch / "images.zip"
    try:
        files = sorted(_files(folder))
        if not files:
            raise invalid("source", f"{folder} holds no file")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, path in files:
                entry = zipfile.ZipInfo(name, _EARLIEST)
                entry.create_system = 3  # Unix, on every system
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                entry.file_size = path.stat().st_size
                with path.open("rb") as source, archive.open(entry, "w") as part:
                    shutil.copyfileobj(source, part, 1 << 20)
    except OSError as error:
        text = f"{error.filename or folder} cannot be packed into {scratch} ($TMPDIR): {error.strerror or error}"
        raise invalid("source", text) from None
    except UnicodeEncodeError as error:
        raise invalid("source", f"{folder} holds a file whose name is not UTF-8: {error.object!a}; rename it") from None
    return target


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of every file; names are relative, with `/` between folders."""
    waiting: list[tuple[str, str, tuple[str, ...]]] = [("", str(folder), ())]
    while waiting:
        prefix, place, above = waiting.pop()
        real = os.path.realpath(place)
        if real in above:
            raise invalid("source", f"{place} is a link that leads back to a folder that it is in")
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append((f"{prefix}{entry.name}/", entry.path, (*above, real)))
                elif stat.S_ISREG(entry.stat().st_mode):
                    yield prefix + entry.name, Path(entry.path)
                else:
                    raise invalid("source", f"{entry.path} is no regular file")
