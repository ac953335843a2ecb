"""A runner seen from the API process: real processes, some of which misbehave."""

import asyncio
import os
import signal

import psutil
import pytest

from scripted import DONE, HELLO, REPORT, a_task, launcher
from undue_service.adapters.memory import NoMetrics
from undue_service.adapters.pool.local import LocalPool
from undue_service.adapters.pool.runner_process import RunnerProcess
from undue_service.application.ports import RunnerLostError, Work
from undue_service.domain.costs import BLOCK_BYTES, SERVE_BYTES
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.reports import ExplainReport, TaskResult
from undue_service.domain.tasks import ExplainCall, ExplainTask
from undue_service.wire.codec import TASK_RESULT
from undue_service.wire.framing import MAX_ANSWER_BYTES, MAX_FRAME_BYTES


def behave(script, tmp_path, lane="batch", **work):
    """Run one task on a runner that does as the script says; return its result and the progress that it told."""

    async def main():
        runner = RunnerProcess("cpu", lane, launcher(script))
        told = []
        try:
            await runner.start()
            result = await runner.run(Work("t", "job-1", a_task("0"), {}, tmp_path, **work), told.append)
            return result, told, runner.libraries
        finally:
            await runner.kill()
            assert not psutil.pid_exists(runner.status().pid)

    return asyncio.run(main())


def test_a_runner_that_behaves(tmp_path):
    script = HELLO + "say(progress=f.Progress(id=task.id, stage='s', done=1, total=2))\n" + DONE + "channel.receive()"
    result, [progress], libraries = behave(script, tmp_path)
    assert result.report == REPORT
    assert (progress.stage, progress.done, progress.total) == ("s", 1, 2)
    assert libraries == {"torch": "9"}


def test_a_runner_is_told_its_device_and_its_budget(tmp_path):
    script = HELLO + "say(progress=f.Progress(id=task.id, stage=' '.join(sys.argv[2:])))\n" + DONE + "channel.receive()"
    _, [progress], _ = behave(script, tmp_path)
    assert progress.stage == f"cpu {BLOCK_BYTES} {SERVE_BYTES}"

    async def main():
        pool = LocalPool(("cpu",), NoMetrics(), launcher(script), block_bytes=12345678, serve_bytes=87654321)
        told = []
        try:
            await pool.run(Work("t", "job-1", a_task("0"), {}, tmp_path), told.append)
        finally:
            await pool.close()
        assert [one.stage for one in told] == ["cpu 12345678 87654321"]

    asyncio.run(main())


EXPLAINED = TASK_RESULT.dump(TaskResult(ExplainReport(resident=True)))
ECHO = f"say(done=f.Done(id=task.id, result={EXPLAINED!r}, attachment=task.attachment * 6, resident_bytes=7))\n"


def explain(attachment, tmp_path, script=HELLO + ECHO + "channel.receive()"):
    async def main():
        pool = LocalPool(("cpu",), NoMetrics(), launcher(script))
        task = ExplainTask("indexes/i", "1-0", (ExplainCall(),))
        try:
            work = Work("t", "call", task, {}, tmp_path, lane="serve", attachment=attachment)
            return await pool.run(work, print), pool.status()
        finally:
            await pool.close()

    return asyncio.run(main())


def test_arrays_travel_beside_a_task_that_explains_and_its_result(tmp_path):
    sent = os.urandom(1 << 20)
    result, status = explain(sent, tmp_path)  # with 6 MiB an answer is longer than any other frame may be
    assert result == TaskResult(ExplainReport(resident=True), attachment=sent * 6)
    assert status.resident_bytes == 7


def test_frames_that_are_too_long_are_not_read(tmp_path):
    long = f"sock.sendall(({MAX_FRAME_BYTES} + {{more}}).to_bytes(4, 'big'))\ntime.sleep(60)"
    with pytest.raises(RunnerLostError, match="a frame of"):
        behave(HELLO + long.format(more=1), tmp_path)
    with pytest.raises(RunnerLostError, match="a frame of"):
        explain(b"", tmp_path, HELLO + long.format(more=MAX_ANSWER_BYTES + 1))


def test_a_runner_is_told_its_workspace(tmp_path):
    script = (
        HELLO + "say(progress=f.Progress(id=task.id, stage=task.workspace or 'none'))\n" + DONE + "channel.receive()"
    )
    _, [progress], _ = behave(script, tmp_path)
    assert progress.stage == "none"
    _, [progress], _ = behave(script, tmp_path, workspace=tmp_path / "kept")
    assert progress.stage == str(tmp_path / "kept")


@pytest.mark.parametrize(
    ("lane", "given", "expected"), [("serve", None, "3000"), ("batch", None, "-"), ("serve", "7", "7")]
)
def test_threads_of_a_serve_runner_wait_actively_for_a_moment_only(tmp_path, monkeypatch, lane, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    stage = "os.environ.get('GOMP_SPINCOUNT', '-')"
    script = HELLO + f"say(progress=f.Progress(id=task.id, stage={stage}))\n" + DONE + "channel.receive()"
    _, [progress], _ = behave(script, tmp_path, lane)
    assert progress.stage == expected


def test_a_typed_failure_is_raised_as_it_was(tmp_path):
    failure = "say(failure=f.Failure(id=task.id, code='FAILED_PRECONDITION', reason='HESSIAN_SINGULAR', message='m'))\n"
    with pytest.raises(FailedPrecondition) as caught:
        behave(HELLO + failure + "channel.receive()", tmp_path)
    assert (caught.value.reason, caught.value.message) == (Reason.HESSIAN_SINGULAR, "m")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "exited with status 0"),
        ("raise SystemExit(3)", "exited with status 3"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        (DONE.replace("task.id", "'x'"), "did not say hello"),
        (HELLO + "os.abort()", "killed by SIGABRT"),
        (HELLO + "sock.sendall(b'\\xff\\xff\\xff\\xff')\ntime.sleep(60)", "a frame of 4,294,967,295 bytes"),
        (HELLO + "sock.sendall(b'\\x00\\x00\\x00\\x03abc')\ntime.sleep(60)", "does not parse|empty frame"),
        (HELLO + "sock.sendall(b'\\x00\\x00\\x00\\x00')\ntime.sleep(60)", "empty frame"),
        (HELLO + "say(hello=f.Hello())\ntime.sleep(60)", "in the middle of a task"),
        (HELLO + DONE.replace("task.id", "'another'") + "time.sleep(60)", "another task"),
        (HELLO + "say(done=f.Done(id=task.id, result=b'{}'))\ntime.sleep(60)", "does not parse"),
    ],
)
def test_a_runner_that_dies_or_speaks_nonsense_is_lost(script, message, tmp_path):
    with pytest.raises(RunnerLostError, match=message):
        behave(script, tmp_path)


def test_a_runner_that_falls_silent_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("undue_service.adapters.pool.runner_process.SILENT_SECONDS", 3.0)
    alive = "for _ in range(5):\n    time.sleep(1)\n    say(alive=f.Alive())\n"
    assert behave(HELLO + alive + DONE + "channel.receive()", tmp_path)[0].report == REPORT
    with pytest.raises(RunnerLostError, match="no sign of life for 3 s") as caught:
        behave(HELLO + "os.kill(os.getpid(), 19)", tmp_path)
    assert caught.value.reason == "silent"


def test_what_a_runner_prints_is_a_log_line_and_no_frame(tmp_path, caplog):
    script = HELLO + "print('a' * 10_000, flush=True)\n" + DONE + "channel.receive()"
    assert behave(script, tmp_path)[0].report == REPORT
    printed = [record.text for record in caplog.records if record.getMessage() == "runner output"]
    assert "".join(printed) == "a" * 10_000
    assert max(map(len, printed)) <= 4096


def test_the_pool_replaces_a_runner_that_died_and_keeps_one_that_only_failed_its_task(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").write_bytes(bytes(4))
    good = Work("t", "job-1", a_task("d"), {"d": tmp_path / "data"}, tmp_path / "scratch")
    bad = Work("t", "job-2", a_task("e"), {"e": tmp_path / "scratch" / ".." / "empty"}, tmp_path / "scratch")
    (tmp_path / "empty").write_bytes(b"")

    async def main():
        pool = LocalPool(("cpu",), NoMetrics())
        try:
            await pool.run(good, lambda _: None)
            [first] = pool.status().runners
            with pytest.raises(InvalidArgument) as caught:
                await pool.run(bad, lambda _: None)
            assert caught.value.reason is Reason.DATASET_MALFORMED
            [kept] = pool.status().runners
            assert kept.pid == first.pid
            os.kill(first.pid, signal.SIGKILL)
            try:
                result = await pool.run(good, lambda _: None)
            except RunnerLostError:  # it was still dying when the work was given to it
                result = await pool.run(good, lambda _: None)
            [second] = pool.status().runners
            assert second.pid != first.pid
            assert result.report.rows == 4
            assert pool.status().libraries["torch"].startswith("2.")
        finally:
            await pool.close()
        assert pool.status().runners == ()

    asyncio.run(main())


def test_a_cancelled_call_kills_its_runner_and_frees_the_slot(tmp_path):
    async def main():
        pool = LocalPool(("cpu",), NoMetrics(), launcher(HELLO + "time.sleep(60)"))
        work = Work("default", "job", a_task("d"), {}, tmp_path)
        try:
            for _ in range(2):
                call = asyncio.create_task(pool.run(work, print))
                while not [runner for runner in pool.status().runners if runner.state == "busy"]:
                    await asyncio.sleep(0.01)
                [runner] = pool.status().runners
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                assert call.cancelled()
                assert not psutil.pid_exists(runner.pid)
                assert pool.status().runners == ()
        finally:
            await pool.close()

    asyncio.run(main())
