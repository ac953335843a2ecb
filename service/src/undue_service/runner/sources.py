"""The data sets that a task opens, and those that stay open for the next one."""

from collections.abc import Callable
from pathlib import Path

from undue_service.datasets.files import check_unchanged
from undue_service.datasets.opening import open_source
from undue_service.datasets.source import DatasetSource
from undue_service.domain.specs import DataSource

KEPT = 4


class Shelf:
    """Data sets whose rows were asked for: such questions come one after the other. The oldest goes first."""

    def __init__(self) -> None:
        self._kept: list[tuple[DataSource, DatasetSource]] = []

    def open(
        self, source: DataSource, resolve: Callable[[str], Path], scratch: Path, keep: bool = False
    ) -> DatasetSource:
        """Return a data set, open. One that was kept is the same data still, or it is an error.

        Raises:
            Error: whatever is wrong with its files.
        """
        for place, (spec, opened) in enumerate(self._kept):
            if spec == source:
                self._kept.append(self._kept.pop(place))
                try:
                    check_unchanged(source)
                except BaseException:
                    self._kept.pop()
                    raise
                return opened
        opened = open_source(source, resolve, scratch)
        if keep:
            self._kept = [*self._kept[-(KEPT - 1) :], (source, opened)]
        return opened
