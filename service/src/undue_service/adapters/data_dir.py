"""The data directory of a service, which one service at a time holds."""

import fcntl
import os
from pathlib import Path

from undue_service.domain.errors import FailedPrecondition, Reason

from .artifacts import typed_os_errors


class DataDir:
    """A locked folder. The lock goes with the process, however it ends."""

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
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Unlock."""
        os.close(self._descriptor)
