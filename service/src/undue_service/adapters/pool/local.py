"""The local pool: on each device a slot, on each slot a runner for each tenant and lane, supervised and replaced."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from undue_service.application.ports import Metrics, PoolStatus, RunnerLostError, Work
from undue_service.domain.costs import BLOCK_BYTES
from undue_service.domain.errors import Error
from undue_service.domain.jobs import Progress
from undue_service.domain.names import DEFAULT_TENANT
from undue_service.domain.reports import TaskResult

from .runner_process import LAUNCHER, RunnerProcess

log = logging.getLogger(__name__)

Key = tuple[int, str, str]
"""Slot, by its place among the devices; tenant; lane."""


class LocalPool:
    """WorkerPool over supervised processes of this machine."""

    def __init__(
        self,
        devices: tuple[str, ...],
        metrics: Metrics,
        launcher: Sequence[str] = LAUNCHER,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._devices = devices
        self._metrics = metrics
        self._launcher = launcher
        self._block_bytes = block_bytes
        self._free: dict[str, asyncio.Queue[int]] = {}
        self._runners: dict[Key, RunnerProcess] = {}
        self._libraries: Mapping[str, str] = {}
        self._peaks = dict.fromkeys(devices, 0)

    async def run(self, work: Work, on_progress: Callable[[Progress], None]) -> TaskResult:
        """See WorkerPool."""
        async with self._slot(work.lane) as slot:
            key = (slot, work.tenant, work.lane)
            loss = "cancelled"
            try:
                runner = await self._runner(key)
                result = await runner.run(work, on_progress)
                self._peaks[runner.device] = max(self._peaks[runner.device], runner.peak_bytes)
                loss = ""
            except Error:
                loss = ""  # the task failed, the runner did not
                raise
            except RunnerLostError as lost:
                loss = lost.reason
                raise
            finally:
                # Whatever else ended the call, a runner in the middle of something is no use.
                if loss:
                    await self._drop(key, loss)
            return result

    async def warm(self) -> None:
        """Start a runner before there is work for it."""
        async with self._slot("batch") as slot:
            await self._runner((slot, DEFAULT_TENANT, "batch"))

    def status(self) -> PoolStatus:
        """See WorkerPool."""
        runners = tuple(runner.status() for runner in tuple(self._runners.values()))
        return PoolStatus(self._devices, runners, self._libraries, dict(self._peaks))

    async def close(self) -> None:
        """See WorkerPool."""
        while self._runners:
            _, runner = self._runners.popitem()
            await runner.kill()

    @asynccontextmanager
    async def _slot(self, lane: str) -> AsyncIterator[int]:
        if lane not in self._free:
            self._free[lane] = asyncio.Queue()
            for slot in range(len(self._devices)):
                self._free[lane].put_nowait(slot)
        slot = await self._free[lane].get()
        try:
            yield slot
        finally:
            self._free[lane].put_nowait(slot)

    async def _runner(self, key: Key) -> RunnerProcess:
        runner = self._runners.get(key)
        if runner is not None and runner.alive:
            return runner
        if runner is not None:
            log.warning("an idle runner died", extra={"pid": runner.status().pid})
            await self._drop(key, "died")
        runner = self._runners[key] = RunnerProcess(self._devices[key[0]], key[2], self._launcher, self._block_bytes)
        try:
            await runner.start()
        except RunnerLostError:
            await self._drop(key, "start")
            raise
        self._libraries = runner.libraries
        return runner

    async def _drop(self, key: Key, reason: str) -> None:
        runner = self._runners.pop(key, None)
        if runner is not None:
            self._metrics.runner_lost(reason)
            await asyncio.shield(runner.kill())
