"""What an attempt leaves for the next one of the same job."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from .tensor_files import read_tensors, sha256_of, write_tensors

_KEY = "key"
_NAMED = re.compile(r"(?P<name>.+)-(?P<sha256>[0-9a-f]{64})\.safetensors")


class Workspace:
    """A folder of files that bear their checksums in their names: a file is there as a whole, or it is not there."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Go on from what is there, if it is of the same `key`; else clear it away.

        Args:
            folder: exists.
            key: all that the files depend on.
        """
        self._folder = folder
        digest = hashlib.sha256(key).hexdigest()
        mark = folder / _KEY
        if not mark.is_file() or mark.read_text() != digest:
            for path in folder.iterdir():
                if path.is_file():
                    path.unlink()
            mark.write_text(digest)  # half of it is no key either
        for path in folder.glob("*.tmp"):
            path.unlink()

    def keep(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
        """Write a file and return its path.

        Raises:
            OSError: the disk is full, or another failure of the file system.
        """
        part = self._folder / f"{name}.part"
        digest = write_tensors(part, tensors, metadata)
        return part.rename(self._folder / f"{name}-{digest}.safetensors")

    def forget(self, name: str) -> None:
        """Remove what was kept under a name; nothing where there is nothing."""
        for match, path in self._files():
            if match["name"] == name:
                path.unlink()

    def names(self) -> list[str]:
        """Return the names that files were kept under, in their order."""
        return sorted(match["name"] for match, _ in self._files())

    def find(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Return the tensors of a file and its metadata; None where there is none, or it is not what was written."""
        for match, path in self._files():
            if match["name"] == name:
                if sha256_of(path) == match["sha256"]:
                    return read_tensors(path)
                path.unlink()
        return None

    def _files(self) -> Iterator[tuple[re.Match[str], Path]]:
        for path in list(self._folder.iterdir()):
            match = _NAMED.fullmatch(path.name)
            if match is not None:
                yield match, path
