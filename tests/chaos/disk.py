"""A small real disk, that can be filled, and a view of a folder that nothing can write through."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLOCK = 64 << 10


class Disk:
    """A tmpfs of so many bytes at a path."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._ballast = path / "ballast"
        path.mkdir(parents=True)
        _mount("-t", "tmpfs", "-o", f"size={size}", "none", str(path))

    def fill(self, leave: int = 0) -> None:
        """Fill it but for so many bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            for block in (bytes(BLOCK), bytes(4096)):
                try:
                    while True:
                        file.write(block)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
            file.truncate(max(0, file.tell() - leave))

    def free(self) -> None:
        """Give all the space back."""
        self._ballast.unlink()

    def remove(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Let nothing be opened for writing below a folder; what is open already stays so."""
    _mount("--bind", str(path), str(path))
    try:
        _mount("-o", "remount,bind,ro", "none", str(path))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*arguments: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount (CAP_SYS_ADMIN), to make a small tmpfs: {done.stderr.strip()}")
