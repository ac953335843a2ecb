"""ReadRows under load: who goes away leaves the queue, the queue has an end, and nothing is left behind."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from undue_service.adapters.artifacts import LocalArtifacts, LocalStaging
from undue_service.adapters.memory import MemoryErasureStore, MemoryIndexStore, MemoryJobStore
from undue_service.adapters.pool.memory import MemoryPool
from undue_service.application.index_tasks import IndexTasks
from undue_service.application.instances import MAX_WAITING, InstanceReader
from undue_service.application.planning import Planner
from undue_service.application.ports import RunnerLostError
from undue_service.application.serving import ServeLane
from undue_service.domain.errors import Reason, ResourceExhausted, Unavailable
from undue_service.domain.reports import DatasetReport, Produced, RowsReport, TaskResult
from undue_service.domain.specs import ArraysSource, TensorRef
from undue_service.wire.examples import encode_texts
from undue_service.wire.results import SafetensorsResults, write


class Bench:
    """A reader of a data set of ten rows over a pool that answers when the test lets it."""

    def __init__(self, folder):
        artifacts, staging = LocalArtifacts(folder), LocalStaging(folder)
        staging.append("t", "u", 0, bytes(10))
        source = ArraysSource({"x": TensorRef("int8", (10,), artifacts.keep("t", staging.path("t", "u")))})
        report = DatasetReport(10, (), None, has_ids=False, has_weights=False, digest="d")
        ready = SimpleNamespace(name="datasets/d/versions/1", spec=source, report=report)
        ready.ready = lambda: ready
        registrations = SimpleNamespace(usable=lambda *_: ready, source=lambda found: found.spec)
        self.folder = folder / "scratch"
        self.go, self.started, self.losses = asyncio.Event(), [], 0
        pool = MemoryPool(self._answer)
        indexes = MemoryIndexStore(MemoryJobStore())
        tasks = IndexTasks(registrations, indexes, MemoryErasureStore(indexes))
        planner = Planner(registrations, artifacts, staging, tasks)
        self.reader = InstanceReader(registrations, planner, pool, ServeLane(1), SafetensorsResults())

    async def _answer(self, work, on_progress):
        self.started.append(work.task.rows)
        await self.go.wait()
        if self.losses:
            self.losses -= 1
            raise RunnerLostError("gone", "died")
        rows = np.array(work.task.rows)
        write(work.scratch / "rows", {"row": rows, "ids": encode_texts([str(row) for row in rows])})
        return TaskResult(RowsReport(len(rows)), (Produced("rows", "rows"),))

    async def read(self, *rows):
        return [row async for part in self.reader.read("t", "datasets/d", rows) for row in part.rows]

    def scratch(self):
        return list(self.folder.iterdir()) if self.folder.exists() else []

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


def story(tmp_path, tell):
    async def main():
        bench = Bench(tmp_path)
        async with asyncio.timeout(20):
            await tell(bench)
        await bench.until(lambda: not bench.scratch())

    asyncio.run(main())


async def gone(calls):
    for call in calls:
        call.cancel()
    assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*calls, return_exceptions=True))


def test_nothing_is_run_for_callers_that_went_away_while_they_waited(tmp_path):
    async def tell(bench):
        first = asyncio.create_task(bench.read(1))
        await bench.until(lambda: bench.started)
        waiting = [asyncio.create_task(bench.read(2)) for _ in range(40)]
        await asyncio.sleep(0.05)
        assert len(bench.scratch()) == 1  # waiting costs no folder
        await gone(waiting)
        last = asyncio.create_task(bench.read(3, 0))
        bench.go.set()
        assert (await first, await last) == ([1], [3, 0])
        assert bench.started == [(1,), (3, 0)]

    story(tmp_path, tell)


def test_a_caller_that_goes_away_later_does_not_stop_the_runner_or_let_another_in(tmp_path):
    async def tell(bench):
        first = asyncio.create_task(bench.read(1))
        await bench.until(lambda: bench.started)
        await gone([first])
        second = asyncio.create_task(bench.read(2))
        await asyncio.sleep(0.05)
        assert bench.started == [(1,)]  # it is at work still
        bench.go.set()
        assert await second == [2]

    story(tmp_path, tell)


def test_a_caller_that_went_away_is_not_read_for_again_when_its_runner_is_lost(tmp_path):
    async def tell(bench):
        first = asyncio.create_task(bench.read(1))
        await bench.until(lambda: bench.started)
        await gone([first])
        bench.losses = 1
        bench.go.set()
        assert await bench.read(2) == [2]
        assert bench.started == [(1,), (2,)]

    story(tmp_path, tell)


@pytest.mark.parametrize("losses", [1, 2])
def test_a_lost_runner_is_tried_once_more(tmp_path, losses):
    async def tell(bench):
        bench.losses = losses
        bench.go.set()
        if losses == 1:
            assert await bench.read(1) == [1]
        else:
            with pytest.raises(Unavailable, match="try again"):
                await bench.read(1)
        assert await bench.read(2) == [2]  # and the turn has ended

    story(tmp_path, tell)


def test_the_queue_has_an_end(tmp_path):
    async def tell(bench):
        first = asyncio.create_task(bench.read(1))
        await bench.until(lambda: bench.started)
        waiting = [asyncio.create_task(bench.read(2)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="read more rows with each call") as caught:
            await bench.read(3)
        assert caught.value.reason is Reason.TOO_MANY_REQUESTS
        await gone(waiting[:1])
        waiting.append(asyncio.create_task(bench.read(4)))
        bench.go.set()
        assert await first == [1]
        assert [await one for one in waiting[1:]] == [[2]] * (MAX_WAITING - 1) + [[4]]

    story(tmp_path, tell)
