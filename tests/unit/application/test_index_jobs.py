"""Jobs of indexes on their way to a runner and back: tasks, workspaces, files that stay, files that go."""

import asyncio
import json
from dataclasses import replace

import pytest

from undue_service.adapters.pool.memory import MemoryPool
from undue_service.application import scheduler as module
from undue_service.application.changes import Changes
from undue_service.application.ports import NOWHERE, RunnerLostError
from undue_service.application.retention import RELEASE_GRACE
from undue_service.application.scheduler import Scheduler
from undue_service.domain.errors import FailedPrecondition, NotFound, Reason
from undue_service.domain.indexes import IndexState
from undue_service.domain.jobs import JobState
from undue_service.domain.reports import DatasetReport, ExplainReport, OpenedReport, Produced, TaskResult
from undue_service.domain.tasks import (
    ExplainCall,
    ExplainTask,
    IndexBuildTask,
    IndexCompactTask,
    IndexedDataset,
    IndexExtendTask,
    OpenIndexTask,
)
from undue_service.wire.codec import TASK
from unit.application.indexing import Bench, index_report

FILES = {"manifest": b"the manifest", "fit": b"the fit", "shard-0": b"rows"}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def planned(bench, job):
    return bench.planner.plan(bench.jobs.update("t", job.id, lambda job: job.start(bench.clock.now())))


def leave(work, files, kept=(), **report):
    """Leave files in the scratch folder, and return the result that names them."""
    for role, data in files.items():
        (work.scratch / role).write_bytes(data)
    produced = tuple(Produced(role, role) for role in files)
    return TaskResult(replace(index_report(), **report), produced, tuple(kept))


def dataset(bench, name):
    found = bench.registrations.get("t", "datasets", "name", name)
    return IndexedDataset(found.name, found.spec, found.report.digest, found.report.rows)


def test_a_build_is_of_the_model_and_its_rows(bench):
    index = bench.create(damping=0.5)
    work = planned(bench, index.jobs[0])
    model = bench.registrations.get("t", "models", "name", "models/m").spec
    train = dataset(bench, "datasets/train")
    digests = {"model": model.digest, "train": "content of train"}
    assert work.task == IndexBuildTask(index.spec, model, train, digests)
    assert TASK.load(TASK.dump(work.task)) == work.task
    assert work.artifacts.keys() == {model.digest, *train.source.digests()}
    assert (work.lane, work.workspace) == ("batch", bench.staging.workspace(index.jobs[0].id))
    bench.planner.discard(work)
    assert not work.scratch.exists()
    assert work.workspace.is_dir(), "a later attempt goes on from it"


def test_a_change_is_told_of_the_index_as_it_is(bench):
    index = bench.built(FILES)
    bench.indexes.erase("t", index.name, (2, 0))
    files = dict(index.current.results)
    compacting = bench.indexes.compact("t", index.name, None)
    work = planned(bench, compacting)
    held = work.task.held
    assert work.task == IndexCompactTask(held, {"model": held.model.digest, "train": "content of train"})
    assert (held.name, held.spec, held.files, held.erased) == (index.name, index.spec, files, (0, 2))
    assert held.revision == bench.store.get("t", index.id).revision != index.revision
    assert set(files.values()) <= work.artifacts.keys()
    assert bench.planner.collect(work, leave(work, {"manifest": b"n", "shard-1": b"r"}, ["fit"]))["fit"] == files["fit"]
    bench.jobs.update("t", compacting.id, lambda job: job.cancel(bench.clock.now()))

    bench.succeed(bench.indexes.extend("t", index.name, "datasets/more", None), FILES)
    bench.data("third")
    work = planned(bench, bench.indexes.extend("t", index.name, "datasets/third", None))
    assert isinstance(work.task, IndexExtendTask)
    assert work.task.added == dataset(bench, "datasets/third")
    assert work.task.held.datasets == (dataset(bench, "datasets/train"), dataset(bench, "datasets/more"))
    read = (*work.task.held.datasets, work.task.added)
    assert {digest for one in read for digest in one.source.digests()} <= work.artifacts.keys()


def test_what_a_change_leaves_is_what_it_made_and_what_stays(bench):
    index = bench.built(FILES)
    before = index.current.results
    work = planned(bench, bench.indexes.extend("t", index.name, "datasets/more", None))
    found = bench.planner.collect(work, leave(work, {"manifest": b"new", "shard-1": b"more"}, ["fit", "shard-0"]))
    assert found.keys() == {"manifest", "fit", "shard-0", "shard-1"}
    assert {role: found[role] for role in ("fit", "shard-0")} == {role: before[role] for role in ("fit", "shard-0")}
    assert bench.artifacts.path("t", found["shard-1"]).read_bytes() == b"more"
    assert found["manifest"] != before["manifest"]


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({"manifest": b"", "shard-1": b""}, ()),
        ({"fit": b"", "shard-1": b""}, ()),
        ({"manifest": b"", "fit": b"", "scores": b""}, ()),
        ({"manifest": b"", "fit": b"", "shard-../x": b""}, ()),
        ({"manifest": b"", "fit": b""}, ("fit",)),
        ({"manifest": b""}, ("fit", "shard-9")),
        ({"manifest": b""}, ("fit", "fit")),
    ],
)
def test_a_result_that_is_not_one_of_an_index_is_refused(bench, files, kept):
    index = bench.built(FILES)
    work = planned(bench, bench.indexes.compact("t", index.name, None))
    result = TaskResult(index_report(), tuple(Produced(role, "file") for role in files), kept)
    with pytest.raises(RunnerLostError) as caught:
        bench.planner.collect(work, result)
    assert caught.value.reason == "nonsense"


def test_a_build_keeps_nothing_of_before_and_other_tasks_leave_no_index(bench):
    work = planned(bench, bench.create().jobs[0])
    other = DatasetReport(4, (), None, has_ids=False, has_weights=False, digest="d")
    for result in (leave(work, FILES, ["shard-7"]), TaskResult(other), TaskResult(ExplainReport(resident=True))):
        with pytest.raises(RunnerLostError):
            bench.planner.collect(work, result)


def test_a_file_that_should_stay_and_is_gone_is_an_error(bench):
    index = bench.built(FILES)
    work = planned(bench, bench.indexes.compact("t", index.name, None))
    work.artifacts[index.current.results["fit"]].unlink()
    with pytest.raises(NotFound) as caught:
        bench.planner.collect(work, leave(work, {"manifest": b"new"}, ["fit"]))
    assert "'fit'" in caught.value.message


def test_an_index_is_opened_from_its_files_and_explained_from_without_them(bench):
    index = bench.built(FILES)
    index = bench.indexes.erase("t", index.name, (1,))
    work = bench.planner.plan_open("t", "k", index)
    assert isinstance(work.task, OpenIndexTask)
    assert work.task.held.files == index.current.results
    assert (work.lane, work.task.held.revision, work.task.held.erased) == ("serve", index.revision, (1,))
    assert work.scratch.is_dir()
    bench.planner.check(work, TaskResult(OpenedReport(index.name, 10)))
    bench.planner.discard(work)
    assert not work.scratch.exists()

    calls = (ExplainCall(), ExplainCall("logit", 3, exact=True))
    before = sorted(bench.root.rglob("*"))
    work = bench.planner.plan_explain("t", "k", index, calls, b"arrays")
    assert work.task == ExplainTask(index.name, index.revision, calls)
    assert (work.lane, work.scratch, work.attachment, dict(work.artifacts)) == ("serve", NOWHERE, b"arrays", {})
    bench.planner.check(work, TaskResult(ExplainReport(resident=True)))
    for nonsense in (TaskResult(OpenedReport("x", 1)), TaskResult(ExplainReport(True), (Produced("rows", "rows"),))):
        with pytest.raises(RunnerLostError):
            bench.planner.check(work, nonsense)
    bench.planner.discard(work)
    assert sorted(bench.root.rglob("*")) == before


def test_an_index_that_is_of_no_use_is_not_opened(bench):
    index = bench.built(FILES)
    with pytest.raises(FailedPrecondition) as caught:
        bench.planner.plan_open("t", "k", bench.create())
    assert caught.value.reason is Reason.RESOURCE_NOT_READY
    bench.deletions.registration("t", "models", "models/m", "", force=True)
    with pytest.raises(NotFound):
        bench.planner.plan_open("t", "k", index)  # as it was read a moment ago
    assert not (bench.root / "scratch").exists()


def test_files_that_are_replaced_go_at_once(bench):
    index = bench.built(FILES)
    before = dict(index.current.results)
    bench.clock.ahead = 2 * RELEASE_GRACE
    job = bench.indexes.compact("t", index.name, None)
    (bench.staging.workspace(job.id) / "part").write_bytes(b"rows that were erased")
    bench.succeed(job, {"manifest": b"new", "fit": before["fit"], "shard-1": b"fewer"})
    assert not bench.has(before["shard-0"])
    assert not bench.has(before["manifest"])
    held = bench.store.get("t", index.id).current.results
    assert all(bench.has(digest) for digest in held.values())
    assert held["fit"] == before["fit"]
    assert list(bench.staging.workspaces()) == []


def test_a_file_that_another_index_holds_stays(bench):
    first, second = bench.built(FILES), bench.built(FILES)
    bench.clock.ahead = 2 * RELEASE_GRACE
    bench.succeed(bench.indexes.compact("t", first.name, None), {"manifest": b"new", "fit": b"other"})
    assert all(bench.has(digest) for digest in second.current.results.values())
    bench.indexes.delete("t", second.name, "", force=False)
    assert not any(bench.has(digest) for digest in second.current.results.values())


def test_workspaces_are_swept_once_their_jobs_have_ended_or_are_gone(bench):
    queued, ended = bench.create().jobs[0], bench.create().jobs[0]
    for key in (queued.id, ended.id, "unknown"):
        (bench.staging.workspace(key) / "part").write_bytes(b"half")
    bench.jobs.update("t", ended.id, lambda job: job.cancel(bench.clock.now()))
    assert bench.retention.sweep().workspaces == 2
    assert list(bench.staging.workspaces()) == [queued.id]
    bench.staging.sweep()  # as after a restart
    assert (bench.staging.workspace(queued.id) / "part").read_bytes() == b"half"


class Runner:
    """A runner that fits, then makes part after part, and goes on from what an earlier attempt left."""

    def __init__(self, die_after=(), parts=3, refuse=False):
        self.die_after, self.parts, self.refuse, self.made = list(die_after), parts, refuse, []

    async def __call__(self, work, on_progress):
        done = work.workspace / "parts.json"
        parts = json.loads(done.read_text()) if done.exists() else []
        while len(parts) < self.parts:
            parts.append(len(parts))
            self.made.append(parts[-1])
            done.write_text(json.dumps(parts))
            if self.die_after and self.die_after[0] == len(parts):
                self.die_after.pop(0)
                raise RunnerLostError("killed", "died")
        if self.refuse:
            raise FailedPrecondition(Reason.INDEX_STALE, "other code")
        return leave(work, FILES)


def run(bench, runner, story, monkeypatch):
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    changes = Changes()
    scheduler = Scheduler(
        bench.jobs, bench.planner, MemoryPool(runner), changes, bench.metrics, bench.clock, bench.superseding.attempted
    )

    async def main():
        changes.bind(asyncio.get_running_loop())
        running = asyncio.create_task(scheduler.run())
        try:
            async with asyncio.timeout(10):
                await story()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("refuse", [False, True])
def test_a_build_whose_runner_is_lost_goes_on_and_leaves_no_workspace(bench, monkeypatch, refuse):
    index, runner = bench.create(), Runner(die_after=(1, 2), refuse=refuse)

    async def story():
        await until(lambda: bench.jobs.get("t", index.jobs[0].id).state.ended)
        await until(lambda: not list(bench.staging.workspaces()))

    run(bench, runner, story, monkeypatch)
    assert runner.made == [0, 1, 2], "each part once, over three attempts"
    found = bench.store.get("t", index.id)
    assert found.jobs[0].attempt == 3
    assert found.state is (IndexState.FAILED if refuse else IndexState.READY)


def test_a_build_that_the_service_puts_back_keeps_its_workspace(bench, monkeypatch):
    index = bench.create()

    async def half(work, on_progress):
        (work.workspace / "parts.json").write_text("[0, 1]")
        await asyncio.Event().wait()

    async def story():
        await until(lambda: list(bench.staging.workspaces()) and any(bench.root.rglob("parts.json")))

    run(bench, half, story, monkeypatch)
    assert bench.jobs.get("t", index.jobs[0].id).state is JobState.QUEUED
    runner = Runner()

    async def finish():
        await until(lambda: bench.store.get("t", index.id).state is IndexState.READY)

    run(bench, runner, finish, monkeypatch)
    assert runner.made == [2]


def test_a_build_that_is_cancelled_or_deleted_leaves_no_workspace(bench, monkeypatch):
    cancelled, deleted = bench.create(), bench.create()

    async def stuck(work, on_progress):
        (work.workspace / "part").write_bytes(b"half")
        await asyncio.Event().wait()

    async def story():
        for index, end in (
            (cancelled, lambda job: bench.jobs.update("t", job.id, lambda job: job.cancel(bench.clock.now()))),
            (deleted, lambda _: bench.indexes.delete("t", deleted.name, "", force=False)),
        ):
            await until(lambda: any(bench.root.rglob("part")))
            end(index.jobs[0])
            await until(lambda index=index: index.jobs[0].id not in bench.staging.workspaces())

    run(bench, stuck, story, monkeypatch)
    assert list(bench.staging.workspaces()) == []
