"""The data directory of a service, which one service at a time holds."""

import contextlib
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

from undue_service.domain.errors import FailedPrecondition, Reason

from .artifacts import typed_os_errors


class DataDir:
    """A locked folder. The lock goes with the process, however it ends.

    Attributes:
        path: the folder.
        held_since: when it was locked, by the clock of its file system: whatever in it is older than this was left by
            a service that is gone.
    """

    def __init__(self, path: Path) -> None:
        """Create the folder if it is missing, and lock it.

        Raises:
            FailedPrecondition: DATA_DIR_LOCKED.
            Unavailable: STORAGE_UNAVAILABLE.
        """
        self.path = path.resolve()
        with typed_os_errors():
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            text = f"{self.path} is held by another service (pid {holder}): connect to that one, or use another folder"
            raise FailedPrecondition(Reason.DATA_DIR_LOCKED, text, metadata={"pid": holder}) from None
        with contextlib.suppress(OSError):  # on a full disk the lock holds as well without a name in it
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        with typed_os_errors():
            os.utime(self._descriptor)
        self.held_since = datetime.fromtimestamp(os.fstat(self._descriptor).st_mtime, UTC)

    def release(self) -> None:
        """Unlock."""
        os.close(self._descriptor)
