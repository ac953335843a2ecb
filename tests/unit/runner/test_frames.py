"""What a task brings in its frame, and what it takes back."""

from pathlib import Path

import pytest

from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.reports import ExplainReport, TaskResult
from undue_service.domain.tasks import ExplainTask
from undue_service.runner.main import _run
from undue_service.wire import frames_pb2 as frames
from undue_service.wire.codec import TASK, TASK_RESULT


class Recorder:
    """A workshop that says what it was given."""

    def __init__(self) -> None:
        self.given: dict[str, object] = {}

    def run(self, task, artifacts, scratch, report, *, workspace, attachment):
        self.given = {"task": task, "scratch": scratch, "workspace": workspace, "attachment": attachment}
        return TaskResult(ExplainReport(resident=False), attachment=b"\xff\x00arrays")

    def peak_bytes(self) -> int:
        return 7

    def resident_bytes(self) -> int:
        return 8


@pytest.mark.parametrize(("folder", "workspace"), [("", None), ("/w", Path("/w"))])
def test_arrays_and_the_workspace_travel_beside_the_task(folder, workspace):
    workshop, task = Recorder(), ExplainTask("indexes/i", "1-0", ())
    frame = frames.Task(id="j", body=TASK.dump(task), scratch="/s", workspace=folder, attachment=b"\x00\xfe")
    done = _run(workshop, None, frame).done
    assert workshop.given == {
        "task": task,
        "scratch": Path("/s"),
        "workspace": workspace,
        "attachment": b"\x00\xfe",
    }
    assert (done.attachment, done.peak_bytes, done.resident_bytes) == (b"\xff\x00arrays", 7, 8)
    assert TASK_RESULT.load(done.result) == TaskResult(ExplainReport(resident=False))


def test_a_typed_error_keeps_its_type(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise NotFound(Reason.RESOURCE_NOT_FOUND, "gone", metadata={"a": "b"})

    workshop = Recorder()
    monkeypatch.setattr(workshop, "run", refuse)
    failure = _run(workshop, None, frames.Task(id="j", body=TASK.dump(ExplainTask("i", "1", ())))).failure
    assert (failure.code, failure.reason, failure.message) == ("NOT_FOUND", "RESOURCE_NOT_FOUND", "gone")
    assert dict(failure.metadata) == {"a": "b"}
