"""Read the instances themselves: rows of a data set, as a model sees them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from undue_service.domain.errors import Reason, ResourceExhausted, Unavailable
from undue_service.domain.names import new_token
from undue_service.domain.resources import Registration
from undue_service.domain.results import Instances

from .checks import check_rows
from .planning import Planner
from .ports import ResultReader, RunnerLostError, WorkerPool
from .registration import Registrations
from .serving import ServeLane
from .validated import dataset_report

BLOCK_BYTES = 1 << 20
ATTEMPTS = 2
"""A runner that was lost may have been lost to an earlier call."""
MAX_WAITING = 64
"""Calls that wait for a runner at once, of all tenants."""


class InstanceReader:
    """Use case of ReadRows. A runner of the serve lane opens the data: this process never does."""

    def __init__(
        self, registrations: Registrations, planner: Planner, pool: WorkerPool, lane: ServeLane, reader: ResultReader
    ) -> None:
        self._registrations = registrations
        self._planner = planner
        self._pool = pool
        self._reader = reader
        self._lane = lane
        self._waiting = 0
        self._runs: set[asyncio.Task[Instances]] = set()

    async def read(self, tenant: str, name: str, rows: tuple[int, ...]) -> AsyncIterator[Instances]:
        """Yield the rows in the order given, about a MiB at a time.

        A caller that goes away while it waits for a runner has nothing run for it.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
            FailedPrecondition: RESOURCE_NOT_READY.
            InvalidArgument: ROW_OUT_OF_RANGE.
            ResourceExhausted: TOO_MANY_REQUESTS where `MAX_WAITING` calls wait; INVALID_FIELD where the rows are more
                than one answer takes; UPLOAD_TOO_LARGE where they and the files are too many for a task.
            Unavailable: RUNNER_LOST.
        """
        found, slot = await self._turn(tenant, name, rows)
        # A caller that goes away must not take the runner, which serves others, with it.
        wanted = asyncio.Event()
        wanted.set()
        run = asyncio.create_task(self._run(tenant, found, rows, slot, wanted))
        self._runs.add(run)  # the loop alone would let go of it
        run.add_done_callback(self._runs.discard)
        run.add_done_callback(lambda _: self._lane.give(slot))
        try:
            instances = await asyncio.shield(run)
        except asyncio.CancelledError:
            wanted.clear()
            raise
        for part in instances.parts(BLOCK_BYTES):
            yield part

    async def _turn(self, tenant: str, name: str, rows: tuple[int, ...]) -> tuple[Registration, int]:
        """Return the data set and the slot when it is this call's turn, which ends with its run."""
        if self._waiting >= MAX_WAITING:
            text = f"{MAX_WAITING} calls wait for a runner already: read more rows with each call, or fewer at once"
            raise ResourceExhausted(Reason.TOO_MANY_REQUESTS, text, metadata={"limit": str(MAX_WAITING)})
        self._waiting += 1
        try:
            found = await asyncio.to_thread(self._dataset, tenant, name, rows)
            return found, await self._lane.take("rows")
        finally:
            self._waiting -= 1

    def _dataset(self, tenant: str, name: str, rows: tuple[int, ...]) -> Registration:
        found = self._registrations.usable(tenant, "datasets", "name", name)
        check_rows("rows", rows, dataset_report(found).rows)
        return found

    async def _run(
        self, tenant: str, found: Registration, rows: tuple[int, ...], slot: int, wanted: asyncio.Event
    ) -> Instances:
        for attempt in range(ATTEMPTS):
            work = await asyncio.to_thread(self._planner.plan_rows, tenant, new_token(), found, rows)
            try:
                if not wanted.is_set():
                    raise asyncio.CancelledError
                result = await self._pool.run(replace(work, slot=slot), lambda _: None)
                return await asyncio.to_thread(self._planner.read, work, result, self._reader.rows)
            except RunnerLostError as lost:
                if attempt + 1 == ATTEMPTS:
                    text = f"the runner that read {found.name} was lost: {lost}; try again"
                    raise Unavailable(Reason.RUNNER_LOST, text) from lost
            finally:
                await asyncio.to_thread(self._planner.discard, work)
        raise AssertionError  # the loop returns or raises
