"""Whether the files that rows are read from are still those that were registered: asked often, looked at seldom."""

import time
from collections.abc import Sequence

from undue_service.datasets.files import check_unchanged
from undue_service.domain.specs import DataSource

PERIOD_SECONDS = 5.0
"""Between two looks, at least."""
_SHARE = 0.02
"""Of the time, at most, that looking takes: a folder may have a million images."""


class Watch:
    """Looks at the files of some data sets."""

    def __init__(self, sources: Sequence[DataSource]) -> None:
        self._sources = tuple(sources)
        self._next = 0.0

    def check(self) -> None:
        """Look, if it is time to.

        Raises:
            FailedPrecondition: DATASET_CHANGED naming the first file that differs.
        """
        started = time.monotonic()
        if started < self._next:
            return
        for source in self._sources:
            check_unchanged(source)
        ended = time.monotonic()
        self._next = ended + max(PERIOD_SECONDS, (ended - started) / _SHARE)
