"""How fast a job goes, and how long it will take from here."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.application import planning
from undue_service.application import scheduler as module
from undue_service.application.scheduler import _Latest
from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Job, JobState, Progress
from undue_service.domain.reports import DatasetReport
from undue_service.domain.tasks import DatasetTask
from undue_service.transport import job_responses
from unit.application.test_scheduler import Bench, produce, run


class Clock:
    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self):
        return self.time

    def wait(self, seconds):
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def told():
    """A function that tells progress after some seconds, and returns what is known then."""
    clock = Clock()
    latest = _Latest(clock)

    def tell(seconds, stage, done, total=100):
        clock.wait(seconds)
        latest.set(Progress(stage, done, total))
        return latest.value

    return tell


def test_a_rate_is_known_from_the_second_report_on(told):
    assert (told(5, "a", 0).rate, told(0, "a", 0).seconds_left) == (0.0, None)
    second = told(2, "a", 10)
    assert (second.rate, second.seconds_left) == (5.0, 18.0)
    assert (second.stage, second.done, second.total) == ("a", 10, 100)


def test_a_rate_is_the_mean_over_the_stage(told):
    told(0, "a", 0)
    told(1, "a", 10)
    assert told(9, "a", 50).rate == 5.0
    assert told(0, "a", 100).seconds_left == 0.0


def test_what_was_done_before_the_first_report_took_unknown_time(told):
    told(100, "a", 40)
    assert told(2, "a", 50).rate == 5.0


@pytest.mark.parametrize(("stage", "done"), [("b", 0), ("b", 50), ("a", 0)])
def test_another_stage_and_one_that_starts_over_are_timed_anew(told, stage, done):
    told(0, "a", 0)
    told(1, "a", 20)
    assert told(1, stage, done).rate == 0.0
    assert told(2, stage, done + 4).rate == 2.0


def test_nothing_is_left_unknown_where_the_total_is(told):
    told(0, "a", 0, 0)
    found = told(1, "a", 3, 0)
    assert (found.rate, found.seconds_left) == (3.0, None)


def test_a_clock_that_is_set_back_makes_no_rate(told):
    told(0, "a", 0)
    assert told(-60, "a", 10).rate == 0.0


@pytest.mark.parametrize("change", [Job.requeue, Job.put_back])
def test_a_job_that_waits_again_has_no_rate(change):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    job = Job("t", "j", Influence("m", "a", "b"), now).start(now).advance(Progress("a", 1, 2, 3.0))
    assert change(job).progress == Progress()


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1e9))
def test_the_time_left_is_never_negative(done, total, rate):
    left = Progress("a", done, total, rate).seconds_left
    assert left is None if not (rate > 0 and total > 0) else left >= 0


@pytest.mark.parametrize(
    ("progress", "left"), [(Progress("a", 10, 100, 5.0), 18.0), (Progress("a", 10, 0, 5.0), None), (Progress(), None)]
)
def test_the_answer_tells_them(progress, left):
    job = Job("t", "j", Influence("m", "a", "b"), datetime(2026, 1, 1, tzinfo=UTC), progress=progress)
    sent = job_responses.job(job).progress
    assert (sent.rate, sent.seconds_left if sent.HasField("seconds_left") else None) == (progress.rate, left)


def test_a_running_job_says_its_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    monkeypatch.setitem(planning._EXPECTED, DatasetTask, planning._Left(DatasetReport, others=re.compile("thing")))
    goes_on = asyncio.Event()

    async def slowly(work, on_progress):
        on_progress(Progress("scores", 0, 100))
        bench.clock.time += timedelta(seconds=2)
        on_progress(Progress("scores", 10, 100))
        await goes_on.wait()
        return await produce(work, on_progress)

    bench = Bench(tmp_path, slowly)

    async def story():
        job = bench.add()
        async with asyncio.timeout(10):
            while bench.get(job).progress.rate == 0:
                await asyncio.sleep(0.01)
        progress = bench.get(job).progress
        assert (progress.rate, progress.seconds_left) == (5.0, 18.0)
        goes_on.set()
        assert (await bench.ended(job)).state is JobState.SUCCEEDED

    run(bench, story)
