"""Read the instances themselves: rows of a data set, as a model sees them."""

import asyncio
from collections.abc import AsyncIterator

from undue_service.domain.errors import Reason, Unavailable
from undue_service.domain.names import new_token
from undue_service.domain.resources import Registration
from undue_service.domain.results import Instances

from .admission import check_rows, dataset_report
from .planning import Planner
from .ports import ResultReader, RunnerLostError, WorkerPool
from .registration import Registrations

BLOCK_BYTES = 1 << 20
ATTEMPTS = 2
"""A runner that was lost may have been lost to an earlier call."""


class InstanceReader:
    """Use case of ReadRows. A runner of the serve lane opens the data: this process never does."""

    def __init__(self, registrations: Registrations, planner: Planner, pool: WorkerPool, reader: ResultReader) -> None:
        self._registrations = registrations
        self._planner = planner
        self._pool = pool
        self._reader = reader

    async def read(self, tenant: str, name: str, rows: tuple[int, ...]) -> AsyncIterator[Instances]:
        """Yield the rows in the order given, about a MiB at a time.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
            FailedPrecondition: RESOURCE_NOT_READY.
            InvalidArgument: ROW_OUT_OF_RANGE.
            ResourceExhausted: INVALID_FIELD where the rows are more than one answer takes; UPLOAD_TOO_LARGE where they
                and the files are too many for a task.
            Unavailable: RUNNER_LOST.
        """
        found = await asyncio.to_thread(self._dataset, tenant, name, rows)
        # A caller that goes away must not take the runner, which serves others, with it.
        instances = await asyncio.shield(asyncio.ensure_future(self._run(tenant, found, rows)))
        for part in instances.parts(BLOCK_BYTES):
            yield part

    def _dataset(self, tenant: str, name: str, rows: tuple[int, ...]) -> Registration:
        found = self._registrations.get(tenant, "datasets", "name", name).ready()
        check_rows("rows", rows, dataset_report(found).rows)
        return found

    async def _run(self, tenant: str, found: Registration, rows: tuple[int, ...]) -> Instances:
        for attempt in range(ATTEMPTS):
            work = await asyncio.to_thread(self._planner.plan_rows, tenant, new_token(), found, rows)
            try:
                result = await self._pool.run(work, lambda _: None)
                return await asyncio.to_thread(self._planner.read, work, result, self._reader.rows)
            except RunnerLostError as lost:
                if attempt + 1 == ATTEMPTS:
                    text = f"the runner that read {found.name} was lost: {lost}; try again"
                    raise Unavailable(Reason.RUNNER_LOST, text) from lost
            finally:
                await asyncio.to_thread(self._planner.discard, work)
        raise AssertionError  # the loop returns or raises
