"""One runner process, seen from the API process."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from undue_service.application.ports import RunnerLostError, RunnerStatus, Work
from undue_service.domain.costs import BLOCK_BYTES, SERVE_BYTES
from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.jobs import Failure, Progress
from undue_service.domain.reports import TaskResult
from undue_service.domain.tasks import ExplainTask
from undue_service.wire import frames_pb2 as frames
from undue_service.wire.codec import TASK, TASK_RESULT
from undue_service.wire.framing import MAX_ANSWER_BYTES, MAX_FRAME_BYTES, FrameError, encode, read_from_runner

from .patience import Patience

log = logging.getLogger(__name__)

# -P: a file in the service's working folder must not stand in for a module.
LAUNCHER = (sys.executable, "-P", "-m", "undue_service.runner.launcher")

START_SECONDS = 120.0
"""How long a runner may take to import its libraries, on a cold disk."""

SILENT_SECONDS = 60.0
"""A runner that says nothing for this long hangs; it should say that it lives every few seconds."""

MAX_OUTPUT_LINE = 4096


class RunnerProcess:
    """A spawned runner on an inherited socketpair. It ends when either end of that pair is closed."""

    def __init__(
        self,
        device: str,
        lane: str,
        launcher: Sequence[str] = LAUNCHER,
        block_bytes: int = BLOCK_BYTES,
        serve_bytes: int = SERVE_BYTES,
    ) -> None:
        self.device = device
        self.lane = lane
        self.libraries: dict[str, str] = {}
        self.peak_bytes = 0
        self.resident_bytes = 0
        self._state = "starting"
        self._ending = False
        self._starting, self._speaking = Patience(), Patience()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            # The launcher is spawned, never forked: nothing of this process but the socket reaches it.
            self._process = subprocess.Popen(  # noqa: S603  our own module
                [*launcher, str(theirs.fileno()), device, str(block_bytes), str(serve_bytes)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(lane),
            )
        threading.Thread(target=self._log_output, daemon=True).start()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def alive(self) -> bool:
        """Whether the process still runs and its socket is open."""
        return self._process.poll() is None and not (self._reader is not None and self._reader.at_eof())

    @property
    def started(self) -> bool:
        """Whether it can take a task."""
        return self._state != "starting"

    def status(self) -> RunnerStatus:
        """Return what it is doing."""
        return RunnerStatus(self._process.pid, self.device, self.lane, self._state)  # type: ignore[arg-type]

    async def start(self) -> None:
        """Wait until it can take a task.

        Raises:
            RunnerLostError: it died, or took too long.
        """
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=1 << 20)
        try:
            async with self._starting.limit(START_SECONDS):
                frame = await self._receive()
                while frame.WhichOneof("frame") == "alive":
                    frame = await self._receive()
        except TimeoutError:
            raise RunnerLostError(f"the runner did not start within {START_SECONDS:g} s", "start") from None
        except RunnerLostError as lost:
            raise RunnerLostError(str(lost), "start") from lost
        if frame.WhichOneof("frame") != "hello":
            raise RunnerLostError("the runner did not say hello", "nonsense")
        self.libraries = dict(frame.hello.libraries)
        self._state = "idle"

    async def run(self, work: Work, on_progress: Callable[[Progress], None]) -> TaskResult:
        """Run one task.

        Raises:
            Error: what the task ended with.
            RunnerLostError: it died, or spoke nonsense.
        """
        assert self._writer is not None  # noqa: S101  started
        self._state = "busy"
        explains = isinstance(work.task, ExplainTask)
        most = MAX_FRAME_BYTES + (MAX_ANSWER_BYTES if explains else 0)
        try:
            # A task may name many files; one that explains names none, and a thread would cost it more than it takes.
            self._writer.write(_task_frame(work) if explains else await asyncio.to_thread(_task_frame, work))
            await self._writer.drain()
        except OSError as error:
            raise RunnerLostError(await asyncio.to_thread(self._how_it_ended), "died") from error
        while True:
            await asyncio.sleep(0)  # frames that have all arrived would otherwise be read without a pause
            frame = await self._receive(most)
            kind = frame.WhichOneof("frame")
            if kind in ("progress", "done", "failure") and getattr(frame, kind).id != work.id:
                raise RunnerLostError("the runner answered for another task", "nonsense")
            if kind == "alive":
                continue
            if kind == "progress":
                on_progress(Progress(frame.progress.stage[:200], frame.progress.done, frame.progress.total))
                continue
            self._state = "idle"
            if kind == "done":
                self.peak_bytes, self.resident_bytes = frame.done.peak_bytes, frame.done.resident_bytes
                return self._result(frame.done) if explains else await asyncio.to_thread(self._result, frame.done)
            if kind == "failure":
                said = frame.failure
                metadata = {key[:100]: value[:1000] for key, value in list(said.metadata.items())[:20]}
                raise Failure(said.code, said.reason, said.message[:10_000], metadata).error()
            raise RunnerLostError(f"the runner sent {kind!r} in the middle of a task", "nonsense")

    async def kill(self) -> None:
        """End the process and everything it started, now; also while it is paused."""
        self._ending = True
        if self._writer is not None:
            self._writer.close()
        else:
            self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)

    def pause(self) -> None:
        """Stop all of its threads; the time until `resume` does not count as silence."""
        if self._signal(signal.SIGSTOP):
            self._starting.stop()
            self._speaking.stop()

    def resume(self) -> None:
        """Let its threads go on."""
        if self._signal(signal.SIGCONT):
            self._starting.start()
            self._speaking.start()

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process and everything it started, unless it has ended or is about to."""
        if self._ending or self._process.poll() is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        return True

    async def _receive(self, most: int = MAX_FRAME_BYTES) -> frames.FromRunner:
        assert self._reader is not None  # noqa: S101  started
        try:
            async with self._speaking.limit(SILENT_SECONDS):
                frame = await read_from_runner(self._reader, most)
        except FrameError as error:
            raise RunnerLostError(f"the runner sent {error}", "nonsense") from error
        except TimeoutError:
            raise RunnerLostError(f"the runner gave no sign of life for {SILENT_SECONDS:g} s", "silent") from None
        if frame is None:
            raise RunnerLostError(await asyncio.to_thread(self._how_it_ended), "died")
        return frame

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the runner closed its socket"
        if status < 0:
            known = {number.value: number.name for number in signal.Signals}
            return f"the runner was killed by {known.get(-status, f'signal {-status}')}"
        return f"the runner exited with status {status}; the service's log has its last words"

    def _log_output(self) -> None:
        """Pass what the process prints on to the log: a stranger's text, so one bounded line at a time."""
        assert self._process.stdout is not None  # noqa: S101  asked for
        with self._process.stdout as pipe:
            while line := pipe.readline(MAX_OUTPUT_LINE):
                text = line.decode(errors="replace").rstrip()
                log.warning("runner output", extra={"pid": self._process.pid, "text": text})

    @staticmethod
    def _result(done: frames.Done) -> TaskResult:
        try:
            return replace(TASK_RESULT.load(done.result), attachment=done.attachment)
        except ValueError as error:
            raise RunnerLostError("the runner sent a result that does not parse", "nonsense") from error


def _task_frame(work: Work) -> bytes:
    task = frames.Task(
        id=work.id,
        body=TASK.dump(work.task),
        scratch=str(work.scratch),
        workspace="" if work.workspace is None else str(work.workspace),
        attachment=work.attachment,
    )
    task.artifacts.update({digest: str(path) for digest, path in work.artifacts.items()})
    try:
        return encode(frames.ToRunner(task=task))
    except FrameError as error:
        text = f"the task is too long to be handed to a runner: {error}; name fewer rows or files"
        raise ResourceExhausted(Reason.UPLOAD_TOO_LARGE, text) from error


def _environment(lane: str) -> dict[str, str]:
    """Return what a runner may know of our environment: how to find its libraries and devices, and no secret."""
    names = (
        "PATH",
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "GOMP_SPINCOUNT",
    )
    # After each parallel region OpenMP's threads look out for the next one without sleeping, for some milliseconds. A
    # runner that answers in milliseconds takes the cores of whoever hands its answer on; one that sleeps at once takes
    # longer itself. On two cores 3,000 turns had the shortest times, of 0 to 300,000 (GOMP's own).
    waiting = {"GOMP_SPINCOUNT": "3000"} if lane == "serve" and "OMP_WAIT_POLICY" not in os.environ else {}
    given = {name: os.environ[name] for name in names if name in os.environ}
    return waiting | given | {"PYTHONUNBUFFERED": "1"}
