"""Artifacts and staging as local files.

    {root}/artifacts/{tenant}/{first two digits}/{sha256}      complete, read-only, never changed
    {root}/staging/{tenant}/{upload}                           on its way in
    {root}/scratch/{job}-{attempt}/                            what a runner is leaving
    {root}/workspaces/{job}/                                   what a later attempt at the job can go on from
    {root}/taken/                                              what it left, out of its reach

All under one root, so that moving a file in is a rename.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from undue_service.application.ports import Held
from undue_service.domain.errors import (
    Error,
    Internal,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)


class LocalArtifacts:
    """ArtifactStore in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root / "artifacts"
        # Between a look at an artifact's age and its removal it must not be renewed or replaced.
        self._aging = threading.Lock()

    def contains(self, tenant: str, digest: str) -> bool:
        """See ArtifactStore."""
        return self._place(tenant, digest).exists()

    def path(self, tenant: str, digest: str) -> Path:
        """See ArtifactStore."""
        place = self._place(tenant, digest)
        if not place.exists():
            raise NotFound(
                Reason.RESOURCE_NOT_FOUND, f"the artifact sha256:{digest} is gone", metadata={"sha256": digest}
            )
        return place

    def keep(self, tenant: str, source: Path, digest: str | None = None) -> str:
        """See ArtifactStore."""
        with typed_os_errors():
            with source.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if digest is not None and found != digest:
                    text = f"the bytes have sha256 {found}, declared was {digest}: upload them again"
                    raise InvalidArgument(Reason.DIGEST_MISMATCH, text, metadata={"declared": digest, "found": found})
                os.fsync(file.fileno())
            place = self._place(tenant, found)
            _make_folder(place.parent)
            source.chmod(0o444)
            with self._aging:
                os.utime(source)
                source.replace(place)
            _sync_folder(place.parent)
        return found

    def renew(self, tenant: str, digest: str) -> int | None:
        """See ArtifactStore."""
        place = self._place(tenant, digest)
        with typed_os_errors(), self._aging:
            try:
                os.utime(place)
                return place.stat().st_size
            except FileNotFoundError:
                return None

    def held(self) -> Iterator[Held]:
        """See ArtifactStore."""
        return _files(self._root, "*/*/*")

    def remove(self, tenant: str, digest: str, before: datetime) -> bool:
        """See ArtifactStore."""
        place = self._place(tenant, digest)
        with typed_os_errors(), self._aging:
            try:
                if _modified(place) >= before:
                    return False
                place.unlink()
            except FileNotFoundError:
                return False
        return True

    def _place(self, tenant: str, digest: str) -> Path:
        return self._root / tenant / digest[:2] / digest


class LocalStaging:
    """Staging in a folder."""

    def __init__(self, root: Path) -> None:
        self._staging = root / "staging"
        self._scratch = root / "scratch"
        self._workspaces = root / "workspaces"
        self._taken = root / "taken"

    def size(self, tenant: str, key: str) -> int:
        """See Staging."""
        try:
            return self._place(tenant, key).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, tenant: str, key: str, offset: int, data: bytes) -> int:
        """See Staging."""
        with typed_os_errors():
            place = self.path(tenant, key)
            place.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a buffer that could not be flushed would be flushed again by the truncation below.
            with place.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                if offset != size:
                    text = f"the chunk starts at {offset}, the upload stands at {size}: go on from there"
                    raise InvalidArgument(Reason.UPLOAD_OFFSET_MISMATCH, text, metadata={"received_bytes": str(size)})
                rest = memoryview(data)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(size)  # no half chunk is left behind on a full disk
                    raise
            return size + len(data)

    def path(self, tenant: str, key: str) -> Path:
        """See Staging."""
        return self._place(tenant, key)

    def discard(self, tenant: str, key: str) -> None:
        """See Staging."""
        with typed_os_errors():
            self._place(tenant, key).unlink(missing_ok=True)

    def held(self) -> Iterator[Held]:
        """See Staging."""
        return _files(self._staging, "*/*")

    def scratch(self, key: str) -> Path:
        """See Staging."""
        place = self._scratch / key
        with typed_os_errors():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        return place

    def workspace(self, key: str) -> Path:
        """See Staging."""
        place = self._workspaces / key
        with typed_os_errors():
            place.mkdir(parents=True, exist_ok=True)
        return place

    def workspaces(self) -> Iterator[str]:
        """See Staging."""
        with typed_os_errors():
            yield from [place.name for place in self._workspaces.glob("*")]

    def discard_workspace(self, key: str) -> None:
        """See Staging."""
        shutil.rmtree(self._workspaces / key, ignore_errors=True)

    def take(self, folder: Path, name: str) -> Path:
        """See Staging."""
        try:
            # A runner may hold a stranger's model: it may have left a link, a pipe, or change the file as it is read.
            descriptor = os.open(folder / Path(name).name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            raise _not_left(name) from None
        with os.fdopen(descriptor, "rb") as file:
            if Path(name).name != name or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_left(name)
            taken = self._taken / secrets.token_hex(16)
            try:
                with typed_os_errors():
                    self._taken.mkdir(parents=True, exist_ok=True)
                    with taken.open("wb") as copy:
                        shutil.copyfileobj(file, copy, 1 << 20)
            except Error:
                taken.unlink(missing_ok=True)
                raise
        return taken

    def sweep(self) -> None:
        """Remove what attempts of a service that died have left, but for what later ones can go on from.

        Only for one that holds the folder alone.
        """
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.rmtree(self._taken, ignore_errors=True)

    def discard_scratch(self, key: str) -> None:
        """See Staging."""
        shutil.rmtree(self._scratch / key, ignore_errors=True)

    def _place(self, tenant: str, key: str) -> Path:
        return self._staging / tenant / key


@contextmanager
def typed_os_errors() -> Iterator[None]:
    """Turn the file system's errors into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = "the disk that holds the artifacts is full: free space, then try again"
            raise ResourceExhausted(Reason.STORAGE_FULL, text) from error
        raise Unavailable(Reason.STORAGE_UNAVAILABLE, f"the artifacts cannot be used: {error.strerror}") from error


def _not_left(name: str) -> Internal:
    return Internal(Reason.INTERNAL, f"the runner named {name[:80]!r}, which is no plain file in its folder")


def _files(root: Path, pattern: str) -> Iterator[Held]:
    """Yield the files `{tenant}/…/{key}`; what goes meanwhile is left out."""
    with typed_os_errors():
        for place in root.glob(pattern):
            with suppress(FileNotFoundError):
                yield Held(place.relative_to(root).parts[0], place.name, _modified(place))


def _modified(place: Path) -> datetime:
    return datetime.fromtimestamp(place.stat().st_mtime, UTC)


def _make_folder(folder: Path) -> None:
    """Make a folder such that it is still there after the machine has died."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
