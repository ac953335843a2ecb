"""A pool without processes: tasks run as coroutines of a function that is given. For tests of what stands above it."""

from collections.abc import Awaitable, Callable

from undue_service.application.ports import PoolStatus, Work
from undue_service.domain.jobs import Progress
from undue_service.domain.reports import TaskResult

Body = Callable[[Work, Callable[[Progress], None]], Awaitable[TaskResult]]


class MemoryPool:
    """WorkerPool over a function."""

    def __init__(self, body: Body, slots: int = 1) -> None:
        self._body = body
        self._devices = ("memory",) * slots

    async def run(self, work: Work, on_progress: Callable[[Progress], None]) -> TaskResult:
        """See WorkerPool."""
        return await self._body(work, on_progress)

    def status(self) -> PoolStatus:
        """See WorkerPool."""
        return PoolStatus(self._devices, (), {})

    async def close(self) -> None:
        """See WorkerPool."""
