"""A limit of waiting whose clock can be stopped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Patience:
    """How long one thing at a time is waited for. The time of whoever is kept from it does not count."""

    def __init__(self) -> None:
        self._limit: asyncio.Timeout | None = None
        self._left = 0.0
        self._stopped = False

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError when the context has lasted so long."""
        self._left = seconds
        try:
            async with asyncio.timeout(None) as self._limit:
                if not self._stopped:
                    self._run()
                yield
        finally:
            self._limit = None

    def stop(self) -> None:
        """Stop the clock."""
        if self._stopped:
            return
        self._stopped = True
        if self._limit is not None and not self._limit.expired():
            until = self._limit.when()
            if until is not None:
                self._left = until - asyncio.get_running_loop().time()
                self._limit.reschedule(None)

    def start(self) -> None:
        """Let it run again."""
        if self._stopped:
            self._stopped = False
            self._run()

    def _run(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._left)
