"""How a file that is read where it lies is reached, and what it is known by; registering and reading must agree.

Whoever may write below a root may put a link where a folder was, at any time. A path is therefore followed name by name
from `/`, each looked up in the folder before it, and none of them may be a link at that moment.
"""

import os
from types import TracebackType

from undue_service.domain.specs import LocatedFile

# With O_PATH a folder need only let itself be passed through, as it always had to. A link is no O_DIRECTORY.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
# Neither a pipe that waits for a writer nor a link that was put in the file's place.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW


class Walk:
    """Follows real paths, one after the other. The last folder stays open: many files lie in the same one."""

    def __init__(self) -> None:
        self._folder: str | None = None
        self._descriptor = -1

    def __enter__(self) -> "Walk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def open(self, path: str) -> int:
        """Return a new descriptor of a file, to read.

        Raises:
            OSError: it cannot be opened, or the path leads through a link.
        """
        folder, name = os.path.split(path)
        return os.open(name, _FILE, dir_fd=self._enter(folder))

    def open_folder(self, path: str) -> int:
        """Return a new descriptor of a folder, to list.

        Raises:
            OSError: it cannot be opened, is no folder, or the path leads through a link.
        """
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._enter(path))

    def status(self, path: str) -> os.stat_result:
        """Return what a path names: a link itself, not where it leads.

        Raises:
            OSError: there is nothing, or the path leads through a link.
        """
        folder, name = os.path.split(path)
        return os.stat(name or ".", dir_fd=self._enter(folder), follow_symlinks=False)

    def _enter(self, folder: str) -> int:
        if folder == self._folder:
            return self._descriptor
        self._leave()
        descriptor = os.open("/", _FOLDER)
        try:
            for name in folder.split("/"):
                if name:
                    inner = os.open(name, _FOLDER, dir_fd=descriptor)
                    os.close(descriptor)
                    descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
        self._folder, self._descriptor = folder, descriptor
        return descriptor

    def _leave(self) -> None:
        if self._folder is not None:
            self._folder = None
            os.close(self._descriptor)


def located_file(name: str, path: str, found: os.stat_result) -> LocatedFile:
    """Return a file as it is now.

    The device's number is left out: NFS mounts, overlays and containers are given another one whenever they start.
    """
    return LocatedFile(name, path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def difference(file: LocatedFile, found: os.stat_result) -> str | None:
    """Return how a file differs from what was registered, or None."""
    if found.st_size != file.size:
        return f"it had {file.size:,} bytes and has {found.st_size:,}"
    if found.st_ino != file.inode:
        return "another file lies in its place"
    if found.st_mtime_ns != file.mtime_ns:
        return "it was written to"
    if found.st_ctime_ns != file.ctime_ns:
        return "it was written to, or its name, owner, rights or links were changed"
    return None
