"""The files that a data set is made of: artifacts, which never change, and files that are read where they lie."""

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.specs import DataSource, FileSource, LocatedFile, UploadedFile
from undue_service.wire.located import Walk, difference

from .refusals import quoted


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file."""

    name: str
    path: Path
    registered: LocatedFile | None = None
    """What it was when it was registered; None for an artifact."""

    def open(self) -> io.FileIO:
        """Return the file opened for reading.

        Raises:
            FailedPrecondition: DATASET_CHANGED where it is not the file that was registered.
        """
        if self.registered is None:
            return io.FileIO(self.path)
        try:
            with Walk() as walk:
                descriptor = walk.open(self.registered.path)
        except OSError as error:
            raise _changed(self.registered, str(error.strerror)) from error
        try:
            _compare(self.registered, os.fstat(descriptor))
            return io.FileIO(descriptor)
        except BaseException:
            os.close(descriptor)
            raise


def data_files(source: FileSource, resolve: Callable[[str], Path]) -> list[DataFile]:
    """Return the files of a source in their order; `resolve` finds an artifact by its digest."""
    return [_data_file(file, resolve) for file in source.files]


def check_unchanged(source: DataSource) -> None:
    """Hold the files that a source reads where they lie against what was registered.

    Raises:
        FailedPrecondition: DATASET_CHANGED naming the first that differs.
    """
    if isinstance(source, FileSource):
        with Walk() as walk:
            for file in source.files:
                if isinstance(file, LocatedFile):
                    try:
                        found = walk.status(file.path)
                    except OSError as error:
                        raise _changed(file, str(error.strerror)) from error
                    _compare(file, found)


def _data_file(file: UploadedFile | LocatedFile, resolve: Callable[[str], Path]) -> DataFile:
    match file:
        case UploadedFile():
            return DataFile(file.name, resolve(file.digest))
        case LocatedFile():
            return DataFile(file.name, Path(file.path), file)


def _compare(file: LocatedFile, found: os.stat_result) -> None:
    how = difference(file, found) if stat.S_ISREG(found.st_mode) else "it is no plain file"
    if how is not None:
        raise _changed(file, how)


def _changed(file: LocatedFile, how: str) -> FailedPrecondition:
    text = f"the file {quoted(file.name)} has changed since the data set was registered: {how}"
    advice = "register the data set again, as a new version"
    return FailedPrecondition(Reason.DATASET_CHANGED, f"{text}; {advice}", metadata={"file": file.name[:200]})
