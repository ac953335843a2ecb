"""Batch work makes way while a serve runner of its slot works: its processes are stopped, then continued.

The kernel stops and continues a process group within a fraction of a millisecond, wherever its threads are; a runner
that looked for a flag between blocks would yield when its block is done. A runner has no lock that another process
waits for, and no deadline of its own, so being stopped costs it nothing but the time. Kernels that were launched on a
GPU run to their end.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

HELD_SECONDS = 2.0
"""Batch work is held no longer than this in a row."""

SLICE_SECONDS = 0.2
"""How long it then works whatever else there is. Under a steady load of serve work it has a share of 1 in 11."""

_ROUNDING_SECONDS = 0.001
"""A timer may come so early that the credit is not quite what was waited for."""


class Pausable(Protocol):
    """A runner that can be held."""

    def pause(self) -> None:
        """Stop all of its threads."""

    def resume(self) -> None:
        """Let them go on."""


class Yielding:
    """One slot: whether its batch runner is held. For one event loop.

    Holding takes from a credit of HELD_SECONDS, and working gives back as much in SLICE_SECONDS. When it is used up the
    batch runner works until it is full again. So short calls, one after the other, starve it no more than a long one.
    """

    def __init__(self, held_seconds: float = HELD_SECONDS, slice_seconds: float = SLICE_SECONDS) -> None:
        self._full = held_seconds
        self._gain = held_seconds / slice_seconds
        self._credit = held_seconds
        self._serving = 0
        self._batch: Pausable | None = None
        self._held = self._owed = False
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Say that serve work is done on the slot while the context lasts."""
        self._serving += 1
        self._settle()
        try:
            yield
        finally:
            self._serving -= 1
            self._settle()

    @contextmanager
    def working(self, runner: Pausable) -> Iterator[None]:
        """Say that batch work is done by this runner while the context lasts; it is not held after that."""
        assert self._batch is None  # noqa: S101  a slot has one batch task at a time
        self._batch = runner
        self._settle()
        try:
            yield
        finally:
            if self._held:
                runner.resume()
            self._account()
            self._batch, self._held = None, False
            self._settle()

    def _settle(self) -> None:
        """Hold or let go, as it should be now, and look again when that may change."""
        self._account()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._credit <= 0:
            self._owed = True
        elif self._credit >= self._full:
            self._owed = False
        held = self._batch is not None and self._serving > 0 and not self._owed
        if self._batch is not None and held != self._held:
            (self._batch.pause if held else self._batch.resume)()
            self._held = held
        if self._batch is not None and self._serving > 0:
            wait = self._credit if held else (self._full - self._credit) / self._gain
            self._timer = asyncio.get_running_loop().call_later(max(wait, _ROUNDING_SECONDS), self._settle)

    def _account(self) -> None:
        now = asyncio.get_running_loop().time()
        passed, self._since = now - self._since, now
        gain = -passed if self._held else passed * self._gain
        self._credit = min(self._full, max(0.0, self._credit + gain))
