"""The runner: takes tasks from its socket, one at a time, until the socket closes.

python -m undue_service.runner.main FD DEVICE BLOCK_BYTES
"""

import errno
import os
import queue
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

from undue_service.domain.errors import Error, FailedPrecondition, Internal, Reason, ResourceExhausted, Unavailable
from undue_service.domain.reports import TaskResult
from undue_service.wire import frames_pb2 as frames
from undue_service.wire.codec import TASK, TASK_RESULT
from undue_service.wire.framing import ALIVE_SECONDS, MAX_FRAME_BYTES, RunnerChannel


def main() -> None:
    """Run."""
    channel = RunnerChannel(socket.socket(fileno=int(sys.argv[1])))
    tasks: queue.Queue[frames.Task] = queue.Queue()
    threading.Thread(target=_read, args=(channel, tasks), daemon=True).start()
    threading.Thread(target=_live, args=(channel,), daemon=True).start()

    from .place import libraries  # after the thread: the service may go while torch is being imported
    from .tasks import Workshop

    workshop = Workshop(device=sys.argv[2], block_bytes=int(sys.argv[3]))
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
        artifacts = {digest: Path(path) for digest, path in task.artifacts.items()}
        result = workshop.run(TASK.load(task.body), artifacts, Path(task.scratch), report)
        return frames.FromRunner(done=frames.Done(id=task.id, result=_finite(result), peak_bytes=workshop.peak_bytes()))
    except Error as error:
        failure = error
    except MemoryError:
        failure = ResourceExhausted(
            Reason.OUT_OF_MEMORY, "the task needs more memory than this machine has: ask for fewer rows at once"
        )
    except OSError as error:
        failure = _storage_failure(error)
    except Exception:  # noqa: BLE001  the boundary of the process: the service's log gets the trace, the user a reason
        failure = _fault()
    said = frames.Failure(
        id=task.id, code=failure.code, reason=failure.reason, message=failure.message, metadata=failure.metadata
    )
    return frames.FromRunner(failure=said)


def _storage_failure(error: OSError) -> Error:
    """Return what to say of a file that could not be read or written; called while the error is handled."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = "the disk that results are written to is full: free space, then create the job again"
        return ResourceExhausted(Reason.STORAGE_FULL, text)
    if error.errno in (errno.EROFS, errno.EIO):
        text = f"the service's files cannot be used: {error.strerror}; create the job again later"
        return Unavailable(Reason.STORAGE_UNAVAILABLE, text)
    return _fault()


def _fault() -> Internal:
    traceback.print_exc()
    return Internal(Reason.INTERNAL, "a fault in the runner; the service's log has its trace")


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
