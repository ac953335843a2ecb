"""The scheduler over in-memory stores and a pool that does as the test says."""

import asyncio
import hashlib
import os
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from undue_service.adapters.artifacts import LocalArtifacts, LocalStaging
from undue_service.adapters.memory import (
    MemoryErasureStore,
    MemoryIndexStore,
    MemoryJobStore,
    MemoryLocator,
    MemoryRegistry,
    NoMetrics,
)
from undue_service.adapters.pool.memory import MemoryPool
from undue_service.application import planning
from undue_service.application import scheduler as module
from undue_service.application.changes import Changes
from undue_service.application.index_tasks import IndexTasks
from undue_service.application.planning import Planner
from undue_service.application.ports import RunnerLostError
from undue_service.application.registration import Registrations
from undue_service.application.scheduler import MAX_INTERRUPTIONS, MAX_LOST_RUNNERS, Scheduler
from undue_service.domain.errors import InvalidArgument, Reason, Unavailable
from undue_service.domain.jobs import JobState, Progress
from undue_service.domain.reports import DatasetReport, Produced, TaskResult
from undue_service.domain.specs import ArraysSource, TensorRef
from undue_service.domain.tasks import DatasetTask

REPORT = DatasetReport(4, (), None, has_ids=False, has_weights=False, digest="d")


class FakeClock:
    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self):
        return self.time


class Bench:
    def __init__(self, tmp_path, body, slots=1):
        self.clock, self.changes, self.jobs = FakeClock(), Changes(), MemoryJobStore()
        self.artifacts, self.staging = LocalArtifacts(tmp_path), LocalStaging(tmp_path)
        self.indexes = MemoryIndexStore(self.jobs)
        self.registrations = Registrations(
            MemoryRegistry(self.jobs, self.indexes),
            self.artifacts,
            self.changes,
            NoMetrics(),
            self.clock,
            MemoryLocator(),
        )
        tasks = IndexTasks(self.registrations, self.indexes, MemoryErasureStore(self.indexes))
        planner = Planner(self.registrations, self.artifacts, self.staging, tasks)
        self.scheduler = Scheduler(self.jobs, planner, MemoryPool(body, slots), self.changes, NoMetrics(), self.clock)
        self.staging.append("t", "u", 0, b"1234")
        self.digest = self.artifacts.keep("t", self.staging.path("t", "u"))
        self.scratch = tmp_path / "scratch"

    @asynccontextmanager
    async def running(self):
        self.changes.bind(asyncio.get_running_loop())
        task = asyncio.create_task(self.scheduler.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def add(self):
        source = ArraysSource({"x": TensorRef("int8", (4,), self.digest)})
        return self.registrations.create_dataset("t", "d", source, None).validation

    def get(self, job):
        return self.jobs.get("t", job.id)

    async def ended(self, job):
        async with asyncio.timeout(10):
            while not self.get(job).state.ended:
                await asyncio.sleep(0.01)
        return self.get(job)


@pytest.fixture(autouse=True)
def quick_and_with_a_file(monkeypatch):
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    # The jobs here are the simplest there are, validations of data sets; they leave no file of their own.
    monkeypatch.setitem(planning._EXPECTED, DatasetTask, planning._Left(DatasetReport, others=re.compile("thing")))


def run(bench, story):
    async def main():
        async with bench.running():
            await story()

    asyncio.run(main())


async def produce(work, on_progress):
    (work.scratch / "file").write_bytes(b"result")
    return TaskResult(REPORT, (Produced("thing", "file"),))


def test_a_job_runs_and_its_files_are_kept(tmp_path):
    bench = Bench(tmp_path, produce)

    async def story():
        job = await bench.ended(bench.add())
        assert job.state is JobState.SUCCEEDED
        assert job.report == REPORT
        assert job.results == {"thing": hashlib.sha256(b"result").hexdigest()}
        assert bench.artifacts.path("t", job.results["thing"]).read_bytes() == b"result"

    run(bench, story)
    assert list(bench.scratch.iterdir()) == [], "nothing is left behind"


def test_a_typed_error_is_the_jobs_failure_and_is_not_tried_again(tmp_path):
    calls = []

    async def refuse(work, on_progress):
        calls.append(work.id)
        raise InvalidArgument(Reason.NON_FINITE_DATA, "row 3 is NaN", metadata={"row": "3"})

    bench = Bench(tmp_path, refuse)

    async def story():
        job = await bench.ended(bench.add())
        assert (job.state, job.failure.reason, job.failure.metadata) == (
            JobState.FAILED,
            "NON_FINITE_DATA",
            {"row": "3"},
        )

    run(bench, story)
    assert len(calls) == 1


def test_an_unexpected_error_does_not_leak_and_does_not_stop_the_scheduler(tmp_path):
    async def body(work, on_progress):
        if len(seen) == 0:
            seen.append(work)
            raise ZeroDivisionError("secret detail")
        return await produce(work, on_progress)

    seen = []
    bench = Bench(tmp_path, body)

    async def story():
        first, second = await bench.ended(bench.add()), await bench.ended(bench.add())
        assert first.failure.reason == "INTERNAL"
        assert "secret" not in first.failure.message
        assert second.state is JobState.SUCCEEDED

    run(bench, story)


def test_a_lost_runner_is_another_try(tmp_path):
    tries = []

    async def body(work, on_progress):
        tries.append(work)
        if len(tries) < MAX_LOST_RUNNERS:
            raise RunnerLostError("killed by SIGKILL", "died")
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body)

    async def story():
        job = await bench.ended(bench.add())
        assert (job.state, job.attempt, job.lost_runners) == (
            JobState.SUCCEEDED,
            MAX_LOST_RUNNERS,
            MAX_LOST_RUNNERS - 1,
        )

    run(bench, story)


@pytest.mark.parametrize(("lost", "reason"), [("died", "RUNNER_LOST"), ("start", "RUNNER_UNAVAILABLE")])
def test_a_job_that_costs_too_many_runners_fails(tmp_path, lost, reason):
    async def body(work, on_progress):
        raise RunnerLostError("killed by SIGSEGV", lost)

    bench = Bench(tmp_path, body)

    async def story():
        job = await bench.ended(bench.add())
        assert job.failure.reason == reason
        assert "SIGSEGV" in job.failure.message
        assert job.attempt == MAX_LOST_RUNNERS

    run(bench, story)


@pytest.mark.parametrize(("died", "state"), [(MAX_INTERRUPTIONS - 1, "SUCCEEDED"), (MAX_INTERRUPTIONS, "FAILED")])
def test_a_job_in_which_the_service_died_too_often_is_not_tried_again(tmp_path, died, state):
    runs = []

    async def body(work, on_progress):
        runs.append(work)
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body)
    job = bench.add()
    for _ in range(died):  # services that leased it and were never heard of again
        bench.jobs.lease(bench.clock.now(), bench.clock.now())
        bench.clock.time += timedelta(seconds=1)

    async def story():
        ended = await bench.ended(job)
        assert (ended.state, ended.attempt, ended.interruptions) == (state, died + 1, died)
        if state == "FAILED":
            assert (ended.failure.reason, runs) == ("RUNNER_LOST", [])

    run(bench, story)


def test_a_service_that_is_told_to_stop_puts_its_job_back(tmp_path):
    tries, started = [], asyncio.Event()

    async def body(work, on_progress):
        tries.append(work)
        if len(tries) == 1:
            started.set()
            await asyncio.sleep(60)
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body)
    job = bench.add()
    run(bench, started.wait)
    assert (bench.get(job).state, bench.get(job).interruptions) == (JobState.QUEUED, 0)

    async def story():
        ended = await bench.ended(job)  # the clock stands still: it does not wait for the lease to run out
        assert (ended.state, ended.attempt, ended.interruptions) == (JobState.SUCCEEDED, 2, 0)

    run(bench, story)


def test_progress_is_written_while_the_job_runs(tmp_path):
    go = asyncio.Event()

    async def body(work, on_progress):
        on_progress(Progress("reading", 3, 9))
        await go.wait()
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body)

    async def story():
        job = bench.add()
        async with asyncio.timeout(5):
            while bench.get(job).progress != Progress("reading", 3, 9):
                await asyncio.sleep(0.01)
        go.set()
        assert (await bench.ended(job)).state is JobState.SUCCEEDED

    run(bench, story)


def test_a_cancelled_job_is_taken_from_the_pool_and_the_slot_is_free(tmp_path):
    killed = []

    async def body(work, on_progress):
        if not killed:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                killed.append(work.id)
                raise
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body)

    async def story():
        job, other = bench.add(), bench.add()
        while bench.get(job).state is not JobState.RUNNING:
            await asyncio.sleep(0.01)
        bench.jobs.update("t", job.id, lambda job: job.cancel(bench.clock.now()))
        assert (await bench.ended(other)).state is JobState.SUCCEEDED
        assert bench.get(job).state is JobState.CANCELLED
        assert killed == [job.id]

    run(bench, story)


def test_a_deadline_ends_a_job(tmp_path):
    async def body(work, on_progress):
        bench.clock.time += timedelta(seconds=31)
        await asyncio.sleep(60)

    bench = Bench(tmp_path, body)

    async def story():
        job = bench.add()
        from dataclasses import replace

        bench.jobs.update("t", job.id, lambda job: replace(job, timeout_seconds=30.0))
        ended = await bench.ended(job)
        assert (ended.failure.reason, ended.failure.code) == ("JOB_DEADLINE", "DEADLINE_EXCEEDED")

    run(bench, story)


def test_an_overtaken_scheduler_writes_nothing(tmp_path):
    async def body(work, on_progress):
        # While this one slept, its lease ran out and another scheduler took the job and finished it.
        bench.clock.time += timedelta(minutes=5)
        taken = bench.jobs.lease(bench.clock.now(), bench.clock.now() + timedelta(seconds=15))
        bench.jobs.update(
            "t",
            work.id,
            lambda job: job.fail(bench.clock.now(), InvalidArgument(Reason.DATASET_EMPTY, "x")),
            token=taken.token,
        )
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body)

    async def story():
        job = bench.add()
        await bench.ended(job)
        await asyncio.sleep(0.1)
        assert bench.get(job).failure.reason == "DATASET_EMPTY"

    run(bench, story)


def test_a_missing_artifact_fails_the_job_with_its_reason(tmp_path):
    bench = Bench(tmp_path, produce)

    async def story():
        added = bench.add()
        bench.artifacts.path("t", bench.digest).unlink()
        job = await bench.ended(added)
        assert job.failure.reason == "RESOURCE_NOT_FOUND"

    run(bench, story)


@pytest.mark.parametrize("left", ["outside", "link", "link to a folder", "pipe", "folder", "nothing"])
def test_a_runner_that_names_what_is_no_file_of_its_own_gets_nothing_kept(tmp_path, left):
    (tmp_path / "secret").write_text("theirs")

    async def body(work, on_progress):
        place, name = work.scratch / "file", "file"
        match left:
            case "outside":
                name = "../../secret"
            case "link":
                place.symlink_to(tmp_path / "secret")
            case "link to a folder":
                (work.scratch / "up").symlink_to(tmp_path)
                name = "up/secret"
            case "pipe":
                os.mkfifo(place)
            case "folder":
                place.mkdir()
        return TaskResult(REPORT, (Produced("thing", name),))

    bench = Bench(tmp_path, body)

    async def story():
        job = await bench.ended(bench.add())
        assert (job.state, job.results) == (JobState.FAILED, {})
        assert (tmp_path / "secret").read_text() == "theirs"
        assert not bench.artifacts.contains("t", hashlib.sha256(b"theirs").hexdigest())

    run(bench, story)


def test_slots_run_side_by_side(tmp_path):
    meeting = asyncio.Barrier(3)

    async def body(work, on_progress):
        async with asyncio.timeout(5):
            await meeting.wait()
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body, slots=3)

    async def story():
        jobs = [bench.add() for _ in range(3)]
        assert {(await bench.ended(job)).state for job in jobs} == {JobState.SUCCEEDED}

    run(bench, story)


def fail_at_times(bench, monkeypatch, method, times, error=None):
    """Make a method of the job store fail the first few times."""
    real, left = getattr(bench.jobs, method), [times]

    def flaky(*arguments, **options):
        if left[0] > 0:
            left[0] -= 1
            raise error or Unavailable(Reason.STORAGE_UNAVAILABLE, "database is locked")
        return real(*arguments, **options)

    monkeypatch.setattr(bench.jobs, method, flaky)


@pytest.mark.parametrize("error", [None, ValueError("an unreadable row")])
def test_a_store_that_is_away_stops_no_scheduler(tmp_path, monkeypatch, error):
    monkeypatch.setattr("undue_service.application.changes.POLL_SECONDS", 0.02)
    bench = Bench(tmp_path, produce)
    fail_at_times(bench, monkeypatch, "lease", 3, error)

    async def story():
        assert (await bench.ended(bench.add())).state is JobState.SUCCEEDED

    run(bench, story)


@pytest.mark.parametrize("method", ["update", "get"])
def test_a_store_that_is_away_for_a_moment_costs_no_finished_work(tmp_path, monkeypatch, method):
    runs = []

    async def body(work, on_progress):
        runs.append(work)
        on_progress(Progress("s", 1, 2))
        await asyncio.sleep(0.1)
        return await produce(work, on_progress)

    bench = Bench(tmp_path, body)

    async def story():
        job = bench.add()
        while not runs:
            await asyncio.sleep(0.001)
        fail_at_times(bench, monkeypatch, method, 5)
        await asyncio.sleep(0.5)
        assert (await bench.ended(job)).state is JobState.SUCCEEDED
        assert len(runs) == 1

    run(bench, story)


def test_an_overtaken_attempt_leaves_its_successors_folder_alone(tmp_path):
    started, go = [], asyncio.Event()

    async def body(work, on_progress):
        started.append(work.scratch)
        if len(started) == 1:
            # This one sleeps past its lease; the other slot takes the job over.
            bench.clock.time += timedelta(minutes=5)
            bench.changes.queued()
            while len(started) < 2:
                await asyncio.sleep(0.01)
            return await produce(work, on_progress)
        (work.scratch / "file").write_bytes(b"of the second")
        await go.wait()
        assert (work.scratch / "file").read_bytes() == b"of the second"
        return TaskResult(REPORT, (Produced("thing", "file"),))

    bench = Bench(tmp_path, body, slots=2)

    async def story():
        job = bench.add()
        while len(started) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        go.set()
        ended = await bench.ended(job)
        assert ended.state is JobState.SUCCEEDED
        assert ended.results == {"thing": hashlib.sha256(b"of the second").hexdigest()}

    run(bench, story)
    assert list(bench.scratch.iterdir()) == []


def test_a_cancelled_job_is_no_error_in_the_log(tmp_path, caplog):
    async def body(work, on_progress):
        await asyncio.sleep(60)

    bench = Bench(tmp_path, body)

    async def story():
        job = bench.add()
        while bench.get(job).state is not JobState.RUNNING:
            await asyncio.sleep(0.01)
        bench.jobs.update("t", job.id, lambda job: job.cancel(bench.clock.now()))
        await asyncio.sleep(0.2)

    run(bench, story)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_result_of_another_kind_of_task_is_a_lost_runner(tmp_path, monkeypatch):
    monkeypatch.setitem(planning._EXPECTED, DatasetTask, planning._Left(DatasetReport))
    bench = Bench(tmp_path, produce)

    async def story():
        job = await bench.ended(bench.add())
        assert job.failure.reason == "RUNNER_LOST"
        assert "another kind" in job.failure.message

    run(bench, story)
