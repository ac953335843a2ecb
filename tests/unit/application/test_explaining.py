"""Explain under load: who is asked together, and that each caller gets what is its own."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undue_service.adapters.pool.memory import MemoryPool
from undue_service.application import explaining
from undue_service.application.explaining import MAX_WAITING, Explainer
from undue_service.application.planning import Planner
from undue_service.application.ports import RunnerLostError, Work
from undue_service.application.serving import ServeLane
from undue_service.domain.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from undue_service.domain.index_jobs import IndexBuild, IndexSpec
from undue_service.domain.indexes import Index
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.reports import CallFailure, ExplainReport, OpenedReport, TaskResult
from undue_service.domain.results import Questions
from undue_service.domain.tasks import ExplainCall, OpenIndexTask
from undue_service.wire import attachments
from undue_service.wire.attachments import AnswerArrays, ListedRows, decode_questions, encode_answers

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OPEN = object()


def an_index(name="i", job="1", erased=0):
    build = Job("t", job, IndexBuild(f"indexes/{name}"), NOW, state=JobState.SUCCEEDED)
    return Index("t", name, IndexSpec("models/m/versions/1", "datasets/d/versions/1"), NOW, (build,), erased)


class Recorder:
    """ExplainMetrics."""

    def __init__(self):
        self.batches, self.stages = [], []

    def explain_stage(self, stage, seconds):
        assert seconds >= 0
        self.stages.append(stage)

    def explain_batch(self, calls):
        self.batches.append(calls)


class Bench:
    """An explainer over a runner that answers each row with the row's own value."""

    def __init__(self, **how):
        self.index, self.others = an_index(), {}
        self.batches, self.opened, self.resident, self.discarded, self.touched = [], [], set(), 0, []
        self.go = asyncio.Event()
        self.go.set()
        self.trouble = lambda _values: None
        self.failures, self.report, self.garble = {}, {}, lambda data: data
        self.resolving = lambda: None
        self.recent = ()
        self.metrics, self.lane = Recorder(), ServeLane(how.pop("slots", 1))
        self.pool = MemoryPool(self._answer, slots=2)
        planner = SimpleNamespace(
            plan_explain=partial(Planner.plan_explain, None), plan_open=self._plan_open, check=Planner.check
        )
        planner.discard = self._discard
        indexes = SimpleNamespace(resolve=self._resolve, touch=self.touched.append, recent=lambda n: self.recent[:n])
        self.explainer = Explainer(indexes, planner, self.pool, self.lane, attachments, self.metrics, **how)

    def _resolve(self, tenant, field, name):
        assert (tenant, field) == ("t", "index")
        self.resolving()
        return self.others.get(name, self.index)

    def _plan_open(self, tenant, key, index):
        self.resolving_open = index
        held = SimpleNamespace(name=index.name, revision=index.revision)
        return Work(tenant, key, OpenIndexTask(held), {}, None, lane="serve")

    def _discard(self, _work):
        self.discarded += 1

    async def _answer(self, work, _progress):
        assert work.lane == "serve"
        if isinstance(work.task, OpenIndexTask):
            held = work.task.held
            self.opened.append((held.name, work.slot))
            self._raise(OPEN)
            await asyncio.sleep(0)
            self.resident = {one for one in self.resident if one[0] != held.name} | {(held.name, held.revision)}
            return TaskResult(OpenedReport(held.name, 5))
        if (work.task.index, work.task.revision) not in self.resident:
            return TaskResult(ExplainReport(resident=False))
        questions = decode_questions(work.attachment)
        values = [one.inputs["x"][:, 0].tolist() for one in questions]
        self.batches.append(values)
        await self.go.wait()
        self._raise(values)
        answers, failures = {}, {}
        for place, rows in enumerate(values):
            if rows[0] in self.failures:
                failures[place] = self.failures[rows[0]]
                continue
            rows = np.array(rows)
            listed = np.stack([rows, rows + 1], axis=1).astype(np.int64)
            numbers = rows.astype(np.float64)
            answers[place] = AnswerArrays(numbers, numbers, numbers, listed, listed + 0.5, listed + 1000, -listed - 0.5)
        row = np.arange(3000)
        shown = np.flatnonzero(np.isin(row, [one for two in answers.values() for one in two.helpful_rows.ravel()]))
        shown = np.union1d(shown, shown + 1000)
        inputs = {"x": np.repeat(row[shown, None], 4, axis=1)}
        listed = ListedRows(row, row * 0, row, row.astype(str).tolist(), row, row, row * 1.0, shown, inputs)
        report = {"recall": 0.5, "stage_seconds": {"screen": 0.25, "strange": 1.0}} | self.report
        return TaskResult(
            ExplainReport(True, failures, **report), attachment=self.garble(encode_answers(answers, listed))
        )

    def _raise(self, values):
        error = self.trouble(values)
        if isinstance(error, RunnerLostError):
            self.resident = set()
        if error is not None:
            raise error

    def ask(self, value, rows=1, name="aliases/a", **call):
        inputs = {"x": np.repeat(np.arange(value, value + rows, dtype=np.float64)[:, None], 3, axis=1)}
        return asyncio.create_task(self.explainer.explain("t", name, Questions(inputs, None), ExplainCall(**call)))

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    @asynccontextmanager
    async def blocked(self):
        """Keep the runner at work on a first call, which ends when the context does."""
        self.go.clear()
        first = self.ask(999)
        await self.until(lambda: self.batches)
        yield first
        self.go.set()


def check(found, value, rows=1):
    answer, index, report = found
    assert [one.loss for one in answer.explanations] == list(range(value, value + rows))
    assert [one.row for one in answer.explanations] == list(range(rows))
    for one in answer.explanations:
        assert [entry.row for entry in one.helpful] == [one.loss, one.loss + 1]
        assert [entry.score for entry in one.harmful] == [-one.loss - 0.5, -one.loss - 1.5]
    shown = {row: x for part in answer.instances for row, x in zip(part.rows, part.inputs["x"], strict=True)}
    listed = {entry.row for one in answer.explanations for entry in (*one.helpful, *one.harmful)}
    assert shown.keys() == listed
    assert all((x == row).all() for row, x in shown.items())
    assert index.name == "indexes/i"
    assert report.recall == 0.5


def story(tell, **how):
    async def main():
        bench = Bench(**how)
        async with asyncio.timeout(20):
            await tell(bench)
            await bench.until(lambda: not bench.explainer._tasks)
        assert not bench.explainer._lines
        assert bench.explainer._waiting == bench.explainer._waiting_bytes == 0
        assert bench.discarded == len(bench.opened)

    asyncio.run(main())


def test_a_call_goes_at_once_and_those_that_come_meanwhile_go_together():
    async def tell(bench):
        async with bench.blocked() as first:
            calls = [bench.ask(value, rows=value % 3 + 1) for value in range(20)]
            await asyncio.sleep(0.01)
        check(await first, 999)
        for value, one in enumerate(calls):
            check(await one, value, value % 3 + 1)
        assert [len(batch) for batch in bench.batches] == [1, 20]
        assert bench.metrics.batches == [1, 20]
        assert bench.metrics.stages.count("queue") == bench.metrics.stages.count("total") == 21
        assert bench.metrics.stages.count("screen") == 2
        assert "strange" not in bench.metrics.stages  # a runner's text is no label
        await bench.until(lambda: bench.touched)
        assert bench.touched[0] is bench.index

    story(tell)


def test_a_window_gathers_calls_that_come_together():
    async def tell(bench):
        calls = [bench.ask(value) for value in range(5)]
        for value, one in enumerate(calls):
            check(await one, value)
        assert [len(batch) for batch in bench.batches] == [5]

    story(tell, window_seconds=0.02)


def test_a_batch_has_limits():
    async def tell(bench):
        async with bench.blocked():
            small = [bench.ask(value) for value in range(70)]
            large = [bench.ask(100 * value, rows=100) for value in range(3)]
            exact = [bench.ask(value, exact=True) for value in range(2)]
            more = bench.ask(7)
        for value, one in enumerate(small):
            check(await one, value)
        for value, one in enumerate(large):
            check(await one, 100 * value, 100)
        for value, one in enumerate(exact):
            check(await one, value)
        check(await more, 7)
        assert [len(batch) for batch in bench.batches] == [1, 64, 6 + 2, 1, 2, 1]

    story(tell)


def test_a_batch_is_bounded_by_what_instances_take_once_that_is_known(monkeypatch):
    monkeypatch.setattr("undue_service.application.batches.BATCH_BYTES", 3 * (2 * 10 * 4 * 8))  # of three calls

    async def tell(bench):
        check(await bench.ask(1), 1)
        bench.batches.clear()
        async with bench.blocked():
            calls = [bench.ask(value) for value in range(7)]
            bare = [bench.ask(value, with_instances=False) for value in range(9)]
        for value, one in enumerate(calls):
            check(await one, value)
        for one in bare:
            answer, _, _ = await one
            assert answer.instances == ()
        assert [len(batch) for batch in bench.batches] == [1, 3, 3, 1 + 9]

    story(tell)


def test_it_is_opened_once_and_again_only_when_it_has_changed():
    async def tell(bench):
        for value, one in enumerate([bench.ask(value) for value in range(5)]):
            check(await one, value)
        check(await bench.ask(1, name="indexes/i"), 1)
        assert bench.opened == [("indexes/i", 0)]
        bench.index = an_index(erased=1)
        check(await bench.ask(2), 2)
        check(await bench.ask(3), 3)
        assert bench.opened == [("indexes/i", 0)] * 2
        assert bench.discarded == 2

    story(tell)


def test_a_failure_of_one_is_nobody_elses():
    async def tell(bench):
        bench.failures = {3: CallFailure("INVALID_ARGUMENT", "INPUT_MISMATCH", "x" * 20_000, {"a": "b"})}
        async with bench.blocked():
            calls = [bench.ask(value) for value in range(5)]
        for value, one in enumerate(calls):
            if value != 3:
                check(await one, value)
        with pytest.raises(InvalidArgument) as caught:
            await calls[3]
        assert (caught.value.reason, len(caught.value.message)) == (Reason.INPUT_MISMATCH, 10_000)
        assert caught.value.metadata == {"a": "b"}
        assert [len(batch) for batch in bench.batches] == [1, 5]

    story(tell)


def test_no_room_beside_others_is_no_failure():
    async def tell(bench):
        bench.failures = {3: CallFailure("UNAVAILABLE", "TOO_MANY_REQUESTS", "no room")}
        async with bench.blocked():
            calls = [bench.ask(value) for value in range(5)]
            bench.trouble = lambda values: bench.failures.clear() if len(values) == 1 and values != [[999]] else None
        for value, one in enumerate(calls):
            check(await one, value)
        assert bench.batches[2:] == [[[3]]]

    story(tell)


def test_a_lost_runner_is_tried_once_more():
    async def tell(bench):
        losses = [RunnerLostError("gone", "died")]
        bench.trouble = lambda values: losses.pop() if losses and values is not OPEN else None
        check(await bench.ask(1), 1)
        assert bench.opened == [("indexes/i", 0)] * 2
        losses += [RunnerLostError("gone", "died")] * 2
        with pytest.raises(Unavailable, match="try again") as caught:
            await bench.ask(2)
        assert caught.value.reason is Reason.RUNNER_LOST
        losses += [RunnerLostError("gone", "start")] * 2
        with pytest.raises(Unavailable) as caught:
            await bench.ask(2)
        assert caught.value.reason is Reason.RUNNER_UNAVAILABLE
        check(await bench.ask(3), 3)

    story(tell)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RunnerLostError("gone", "died"), Unavailable),
        (ResourceExhausted(Reason.OUT_OF_MEMORY, "no memory"), ResourceExhausted),
        (Internal(Reason.INTERNAL, "a fault"), Internal),
    ],
)
def test_rows_that_cost_a_runner_cost_nobody_else_an_answer(error, expected):
    async def tell(bench):
        bench.trouble = lambda values: error if values is not OPEN and [13] in values else None
        async with bench.blocked():
            calls = {value: bench.ask(value) for value in (11, 12, 13, 14)}
        with pytest.raises(expected):
            await calls.pop(13)
        for value, one in calls.items():
            check(await one, value)
        assert bench.batches[2:] == [[[11]], [[12]], [[13]], [[14]]]

    story(tell)


@pytest.mark.parametrize(
    "error", [NotFound(Reason.RESOURCE_NOT_FOUND, "no"), FailedPrecondition(Reason.INDEX_DAMAGED, "damaged")]
)
def test_what_is_wrong_with_the_index_everybody_is_told(error):
    async def tell(bench):
        if isinstance(error, NotFound):
            bench.resolving = lambda: (_ for _ in ()).throw(error)
        else:
            bench.trouble = lambda values: error if values is OPEN else None
        for one in [bench.ask(value) for value in range(3)]:
            with pytest.raises(type(error)) as caught:
                await one
            assert caught.value.reason is error.reason

    story(tell)


def test_a_fault_of_ours_is_told_and_does_not_end_the_line(caplog):
    async def tell(bench):
        bench.trouble = lambda _: ZeroDivisionError()
        with pytest.raises(Internal):
            await bench.ask(1)
        bench.trouble = lambda _: None
        check(await bench.ask(2), 2)
        assert "unexpected error" in caplog.text

    story(tell)


def test_an_index_that_changes_while_it_is_opened_is_looked_up_again():
    async def tell(bench):
        def gone(values):
            if values is OPEN and bench.index.current.id == "1":
                bench.index = an_index(job="2")
                return NotFound(Reason.RESOURCE_NOT_FOUND, "compacted")
            return None

        bench.trouble = gone
        _, index, _ = await bench.ask(1)
        assert index.current.id == "2"

    story(tell)


def test_nothing_is_asked_for_callers_that_went_away_while_they_waited():
    async def tell(bench):
        async with bench.blocked() as first:
            calls = [bench.ask(value) for value in range(10)]
            await asyncio.sleep(0.01)
            for one in calls[::2]:
                one.cancel()
            await asyncio.sleep(0.01)
        check(await first, 999)
        for value in range(1, 10, 2):
            check(await calls[value], value)
        assert all(one.cancelled() for one in calls[::2])
        assert bench.batches[1] == [[1], [3], [5], [7], [9]]

    story(tell)


def test_a_caller_that_goes_away_later_stops_neither_the_runner_nor_the_others():
    async def tell(bench):
        async with bench.blocked() as first:
            first.cancel()
            calls = [bench.ask(value) for value in range(2)]
            await asyncio.sleep(0.01)
            assert len(bench.batches) == 1  # it is at work still
        for value, one in enumerate(calls):
            check(await one, value)

    story(tell)


def test_a_deadline_ends_the_wait():
    async def tell(bench):
        async with bench.blocked():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await bench.ask(1)

    story(tell)


def test_the_queue_has_an_end(monkeypatch):
    async def tell(bench):
        async with bench.blocked():
            calls = [bench.ask(1) for _ in range(MAX_WAITING - 1)]
            await asyncio.sleep(0)
            with pytest.raises(ResourceExhausted, match="try again later") as caught:
                await bench.ask(2)
            assert caught.value.reason is Reason.TOO_MANY_REQUESTS
            calls[0].cancel()
            await asyncio.sleep(0.01)
            calls.append(bench.ask(3))
            await asyncio.sleep(0)
            monkeypatch.setattr(explaining, "MAX_WAITING", 10 * MAX_WAITING)
            monkeypatch.setattr(explaining, "MAX_WAITING_BYTES", 0)
            with pytest.raises(ResourceExhausted):
                await bench.ask(2)
        check(await calls[-1], 3)
        await asyncio.gather(*calls, return_exceptions=True)

    story(tell)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"garble": lambda _: b"\xff" * 100},
        {"garble": lambda _: encode_answers({}, LISTED_NOTHING)},
        {"failures": {1: CallFailure("INTERNAL", "INTERNAL", "")}, "garble": lambda _: ANOTHER},
    ],
)
def test_nonsense_is_a_lost_runner(nonsense):
    async def tell(bench):
        vars(bench).update(nonsense)
        with pytest.raises(Unavailable, match="answers") as caught:
            await bench.ask(1)
        assert caught.value.reason is Reason.RUNNER_LOST

    story(tell)


NOTHING = np.zeros(0, np.int64)
LISTED_NOTHING = ListedRows(NOTHING, NOTHING, NOTHING, (), NOTHING, NOTHING, NOTHING * 1.0, NOTHING, {})
ANOTHER = encode_answers(
    {0: AnswerArrays(*[np.zeros(2)] * 3, *[np.full((2, 1), -1), np.zeros((2, 1))] * 2)}, LISTED_NOTHING
)


def test_answers_from_a_data_set_that_the_index_has_not_are_nonsense():
    async def tell(bench):
        row = np.arange(1)
        listed = ListedRows(row, row + 1, row, ("0",), row, row, row * 1.0, row, {"x": row})
        lists = [row[None], np.zeros((1, 1))]
        bench.garble = lambda _: encode_answers({0: AnswerArrays(*[np.zeros(1)] * 3, *lists, *lists)}, listed)
        with pytest.raises(Unavailable, match="other questions"):
            await bench.ask(0)

    story(tell)


def test_a_runner_that_answers_no_more_is_given_up(monkeypatch):
    monkeypatch.setattr(explaining, "EXPLAIN_SECONDS", 0.05)

    async def tell(bench):
        bench.go.clear()
        with pytest.raises(Unavailable, match=r"more than 0\.05 s"):
            await bench.ask(1)
        bench.go.set()
        check(await bench.ask(2), 2)

    story(tell)


def test_rows_are_read_between_batches():
    async def tell(bench):
        order = []

        async def read():
            async with bench.lane.turn("rows"):
                order.append(len(bench.batches))

        async with bench.blocked():
            reads = [asyncio.create_task(read()) for _ in range(3)]
            await asyncio.sleep(0.01)
            calls = [bench.ask(1)]
            await asyncio.sleep(0.01)
        await asyncio.gather(*calls, *reads)
        assert order[0] == 1
        assert order[-1] == 2  # the call did not wait for all of them

    story(tell)


def test_indexes_have_a_slot_each():
    async def tell(bench):
        bench.others = {f"indexes/{name}": an_index(name) for name in "abcd"}
        for _ in range(2):
            for name in bench.others:
                await bench.ask(1, name=name)
        assert sorted(bench.opened) == [("indexes/a", 0), ("indexes/b", 1), ("indexes/c", 0), ("indexes/d", 1)]

    story(tell, slots=2)


def test_what_was_explained_from_last_is_warm_after_a_start():
    async def tell(bench):
        bench.recent = tuple(an_index(name) for name in "abc")
        bench.trouble = lambda values: (
            FailedPrecondition(Reason.INDEX_DAMAGED, "damaged") if values is OPEN and len(bench.opened) == 2 else None
        )
        await bench.explainer.warm(1 << 30)
        assert [name for name, _ in bench.opened] == ["indexes/a", "indexes/b", "indexes/c"]
        assert {name for name, _ in bench.resident} == {"indexes/a", "indexes/c"}

    story(tell)


def test_closing_tells_those_who_wait():
    async def main():
        bench = Bench()
        bench.go.clear()
        calls = [bench.ask(1)]
        await bench.until(lambda: bench.batches)
        calls += [bench.ask(2)]
        await asyncio.sleep(0.01)
        await bench.explainer.close()
        for one in calls:
            with pytest.raises(Unavailable, match="stopping"):
                await one

    asyncio.run(main())


@settings(max_examples=25, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 80), st.booleans(), st.sampled_from(["aliases/a", "indexes/i"])),
        min_size=1,
        max_size=60,
    ),
    losses=st.lists(st.integers(0, 12), max_size=3),
)
def test_everybody_gets_an_answer_and_their_own(calls, losses):
    """Whatever else is asked, and whichever runners are lost."""

    async def tell(bench):
        asked = 0

        def trouble(_values):
            nonlocal asked
            asked += 1
            return RunnerLostError("gone", "died") if asked - 1 in losses else None

        bench.trouble = trouble
        tasks = []
        for pause, rows, exact, name in calls:
            tasks.append(bench.ask(pause, rows, name, exact=exact))
            if pause > 20:
                await asyncio.sleep(0.001)
        for (value, rows, _, _), one in zip(calls, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if isinstance(one, Unavailable):
                assert len(losses) >= 2
            else:
                check(one, value, rows)

    story(tell)
