"""Temporary folders that do not outlive their owner for long, however it ended.

A folder's owner holds a lock on a file in it. The lock goes with the owner, so that the next to come can tell the
folders that were left behind by a kill and remove them.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "undue-"
_LOCK = "owner.lock"
_SOCKET_PATH_BYTES = 100  # the kernel takes 107


class ScratchFolder:
    """A folder that only this user can enter, with a path that is short enough for a socket in it."""

    def __init__(self) -> None:
        root = Path(tempfile.gettempdir())
        if len(os.fsencode(root)) + 20 > _SOCKET_PATH_BYTES:
            root = Path("/tmp")  # noqa: S108 (mkdtemp makes a folder of our own there)
        _sweep(root)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        # Under its final name only once it is locked: a sweep in between must not take the folder for an abandoned one.
        unlocked = self.path / "owner"
        self._lock = os.open(unlocked, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self.path / _LOCK)

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep(root: Path) -> None:
    """Remove what owners that are gone have left."""
    for lock in root.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):  # another user's, held, or removed by its owner just now
            if lock.lstat().st_uid != os.getuid() or lock.parent.lstat().st_uid != os.getuid():
                continue
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(descriptor)
