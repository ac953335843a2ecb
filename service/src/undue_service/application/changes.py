"""Who waits for what inside this process: the scheduler for work, watchers for a job to change.

The store stays the truth. A change that another process made is seen by polling, one made here at once.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

POLL_SECONDS = 1.0


class Changes:
    """Wakes waiters up. Its notifying methods may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work = asyncio.Event()
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that waiters wait in."""
        self._loop = loop

    def queued(self) -> None:
        """Say that there is work."""
        self._call(self._work.set)

    def changed(self, job_id: str) -> None:
        """Say that a job has changed."""
        self._call(self._notify, job_id)

    async def work(self) -> None:
        """Wait until there may be work."""
        await wait(self._work)

    @asynccontextmanager
    async def watching(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever the job changes; wait for it with `wait`."""
        event = asyncio.Event()
        self._watchers[job_id].add(event)
        try:
            yield event
        finally:
            self._watchers[job_id].discard(event)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def _notify(self, job_id: str) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()

    def _call(self, function: Callable[..., None], *arguments: str) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function, *arguments)


async def wait(event: asyncio.Event) -> None:
    """Wait for an event, or until it is time to poll; then clear it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await event.wait()
    event.clear()
