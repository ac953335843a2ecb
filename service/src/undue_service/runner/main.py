"""The runner: takes tasks from its socket, one at a time, until the socket closes.

python -m undue_service.runner.main FD DEVICE BLOCK_BYTES SERVE_BYTES
"""

import os
import queue
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from undue_service.domain.errors import FailedPrecondition, Reason, ResourceExhausted
from undue_service.domain.reports import TaskResult
from undue_service.wire import frames_pb2 as frames
from undue_service.wire.codec import TASK, TASK_RESULT
from undue_service.wire.framing import ALIVE_SECONDS, MAX_FRAME_BYTES, RunnerChannel

from .faults import typed


def main() -> None:
    """Run."""
    channel = RunnerChannel(socket.socket(fileno=int(sys.argv[1])))
    tasks: queue.Queue[frames.Task] = queue.Queue()
    threading.Thread(target=_read, args=(channel, tasks), daemon=True).start()
    threading.Thread(target=_live, args=(channel,), daemon=True).start()

    from .place import libraries  # after the thread: the service may go while torch is being imported
    from .tasks import Workshop

    workshop = Workshop(device=sys.argv[2], block_bytes=int(sys.argv[3]), serve_bytes=int(sys.argv[4]))
    channel.send(frames.FromRunner(hello=frames.Hello(libraries=libraries())))
    while True:
        channel.send(_run(workshop, channel, tasks.get()))


def _read(channel: RunnerChannel, tasks: "queue.Queue[frames.Task]") -> None:
    try:
        while (frame := channel.receive()) is not None:
            tasks.put(frame.task)
    finally:
        os._exit(0)  # the service is gone, and so is whoever waited for what runs now


def _live(channel: RunnerChannel) -> None:
    while True:
        time.sleep(ALIVE_SECONDS)
        channel.send(frames.FromRunner(alive=frames.Alive()))


def _run(workshop: "Workshop", channel: RunnerChannel, task: frames.Task) -> frames.FromRunner:  # type: ignore[name-defined] # noqa: F821
    def report(stage: str, done: int, total: int) -> None:
        channel.send(frames.FromRunner(progress=frames.Progress(id=task.id, stage=stage, done=done, total=total)))

    try:
        result = workshop.run(
            TASK.load(task.body),
            {digest: Path(path) for digest, path in task.artifacts.items()},
            Path(task.scratch),
            report,
            workspace=Path(task.workspace) if task.workspace else None,
            attachment=task.attachment,
        )
        done = frames.Done(
            id=task.id,
            result=_finite(replace(result, attachment=b"")),
            peak_bytes=workshop.peak_bytes(),
            attachment=result.attachment,
            resident_bytes=workshop.resident_bytes(),
        )
        return frames.FromRunner(done=done)
    except Exception as error:  # noqa: BLE001  the boundary of the process
        failure = typed(error)
    said = frames.Failure(
        id=task.id, code=failure.code, reason=failure.reason, message=failure.message, metadata=failure.metadata
    )
    return frames.FromRunner(failure=said)


def _finite(result: TaskResult) -> bytes:
    try:
        data = TASK_RESULT.dump(result)
    except ValueError as error:
        text = "the report has NaN or infinity in it: check the model's weights and the data for extreme values"
        raise FailedPrecondition(Reason.NON_FINITE_RESULT, text) from error
    if len(data) > MAX_FRAME_BYTES // 2:
        text = f"the report has {len(data):,} bytes: there are too many parameters, inputs, files or classes to list"
        raise ResourceExhausted(Reason.MODEL_UNSUPPORTED, text)
    return data


if __name__ == "__main__":
    main()
