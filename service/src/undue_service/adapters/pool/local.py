"""The local pool: on each device a slot, on each slot a runner for each tenant and lane, supervised and replaced."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager

from undue_service.application.ports import Metrics, PoolStatus, RunnerLostError, Work
from undue_service.domain.costs import BLOCK_BYTES, SERVE_BYTES
from undue_service.domain.errors import Error
from undue_service.domain.jobs import Progress
from undue_service.domain.names import DEFAULT_TENANT
from undue_service.domain.reports import TaskResult

from .runner_process import LAUNCHER, RunnerProcess
from .yielding import Yielding

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
        serve_bytes: int = SERVE_BYTES,
    ) -> None:
        self._devices = devices
        self._metrics = metrics
        self._launcher = launcher
        self._block_bytes = block_bytes
        self._serve_bytes = serve_bytes
        self._free: asyncio.Queue[int] = asyncio.Queue()  # for batch work
        for slot in range(len(devices)):
            self._free.put_nowait(slot)
        self._serving: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._yielding = [Yielding() for _ in devices]
        self._runners: dict[Key, RunnerProcess] = {}
        self._libraries: Mapping[str, str] = {}
        self._peaks = dict.fromkeys(devices, 0)

    async def run(self, work: Work, on_progress: Callable[[Progress], None]) -> TaskResult:
        """See WorkerPool."""
        async with self._slot(work) as slot:
            key = (slot, work.tenant, work.lane)
            loss = "cancelled"
            try:
                runner = await self._runner(key)
                with self._working(slot, runner):
                    await self._start(runner)
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
        """Start a runner for batch work before there is any."""
        slot = await self._free.get()
        key = (slot, DEFAULT_TENANT, "batch")
        try:
            runner = await self._runner(key)
            with self._working(slot, runner):
                await self._start(runner)
        except BaseException:
            await self._drop(key, "start")
            raise
        finally:
            self._free.put_nowait(slot)

    def status(self) -> PoolStatus:
        """See WorkerPool."""
        runners = tuple(runner.status() for runner in tuple(self._runners.values()))
        resident = sum(runner.resident_bytes for runner in tuple(self._runners.values()))
        return PoolStatus(self._devices, runners, self._libraries, dict(self._peaks), resident)

    async def close(self) -> None:
        """See WorkerPool."""
        while self._runners:
            _, runner = self._runners.popitem()
            await runner.kill()

    @asynccontextmanager
    async def _slot(self, work: Work) -> AsyncIterator[int]:
        if work.lane == "serve":
            async with self._serving[work.slot]:
                yield work.slot
            return
        slot = await self._free.get()
        try:
            yield slot
        finally:
            self._free.put_nowait(slot)

    def _working(self, slot: int, runner: RunnerProcess) -> AbstractContextManager[None]:
        yielding = self._yielding[slot]
        return yielding.serving() if runner.lane == "serve" else yielding.working(runner)

    async def _runner(self, key: Key) -> RunnerProcess:
        runner = self._runners.get(key)
        if runner is not None and runner.alive:
            return runner
        if runner is not None:
            log.warning("an idle runner died", extra={"pid": runner.status().pid})
            await self._drop(key, "died")
        device, lane = self._devices[key[0]], key[2]
        runner = RunnerProcess(device, lane, self._launcher, self._block_bytes, self._serve_bytes)
        self._runners[key] = runner
        return runner

    async def _start(self, runner: RunnerProcess) -> None:
        if not runner.started:
            await runner.start()
            self._libraries = runner.libraries

    async def _drop(self, key: Key, reason: str) -> None:
        runner = self._runners.pop(key, None)
        if runner is not None:
            self._metrics.runner_lost(reason)
            await asyncio.shield(runner.kill())
