"""A progress bar for those who look."""

import sys
from types import TracebackType
from typing import Any, Self

from ._resources import Progress


class ProgressBar:
    """A tqdm bar on standard error that follows a job through its stages; nothing where it is not wanted.

    Args:
        label: what is waited for.
        wanted: None shows it where standard error is a terminal.
    """

    def __init__(self, label: str, wanted: bool | None) -> None:
        self._label = label
        self._wanted = sys.stderr.isatty() if wanted is None else wanted
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._wanted:
            from tqdm.auto import tqdm  # imported where it is shown: it costs more than the rest of the SDK

            self._bar = tqdm(desc=self._label, total=0, leave=False)
        return self

    def update(self, progress: Progress) -> None:
        """Show where the job stands."""
        if self._bar is None:
            return
        self._bar.total, self._bar.n = progress.total, progress.done
        self._bar.set_description(f"{self._label}: {progress.stage or progress.state.lower()}", refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
