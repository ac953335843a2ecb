"""The files that a data set is made of: artifacts, which never change, and files that are read where they lie."""

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.specs import DataSource, FileSource, LocatedFile, UploadedFile

from .refusals import quoted


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file."""

    name: str
    path: Path
    size: int | None = None
    """Its size when it was registered; None for an artifact."""
    mtime_ns: int | None = None
    """The time of its last change when it was registered; None for an artifact."""

    def open(self) -> io.FileIO:
        """Return the file opened for reading.

        Raises:
            FailedPrecondition: DATASET_CHANGED where it is not the file that was registered.
        """
        if self.size is None:
            return io.FileIO(self.path)
        try:
            # Neither a pipe that waits for a writer nor a link that was put in the file's place.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            raise self._changed(str(error.strerror)) from error
        try:
            self._compare(os.fstat(descriptor))
            return io.FileIO(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def check(self) -> None:
        """Raise FailedPrecondition (DATASET_CHANGED) where the file is no longer the one that was registered."""
        if self.size is None:
            return
        try:
            found = os.lstat(self.path)
        except OSError as error:
            raise self._changed(str(error.strerror)) from error
        self._compare(found)

    def _compare(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise self._changed("it is no plain file")
        if found.st_size != self.size:
            raise self._changed(f"it had {self.size:,} bytes and has {found.st_size:,}")
        if found.st_mtime_ns != self.mtime_ns:
            raise self._changed("it was written to")

    def _changed(self, how: str) -> FailedPrecondition:
        text = f"the file {quoted(self.name)} has changed since the data set was registered: {how}"
        advice = "register the data set again, as a new version"
        return FailedPrecondition(Reason.DATASET_CHANGED, f"{text}; {advice}", metadata={"file": self.name[:200]})


def data_files(source: FileSource, resolve: Callable[[str], Path]) -> list[DataFile]:
    """Return the files of a source in their order; `resolve` finds an artifact by its digest."""
    return [_data_file(file, resolve) for file in source.files]


def check_unchanged(source: DataSource) -> None:
    """Hold the files that a source reads where they lie against what was registered.

    Raises:
        FailedPrecondition: DATASET_CHANGED naming the first that differs.
    """
    if isinstance(source, FileSource):
        for file in source.files:
            if isinstance(file, LocatedFile):
                DataFile(file.name, Path(file.path), file.size, file.mtime_ns).check()


def _data_file(file: UploadedFile | LocatedFile, resolve: Callable[[str], Path]) -> DataFile:
    match file:
        case UploadedFile():
            return DataFile(file.name, resolve(file.digest))
        case LocatedFile():
            return DataFile(file.name, Path(file.path), file.size, file.mtime_ns)
