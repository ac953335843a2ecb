"""A job: watch it, wait for it, cancel it. What each kind found is read in `kinds`."""

import time
from collections.abc import AsyncIterator
from datetime import datetime

from undue import _convert, _convert_jobs
from undue._errors import Cancelled, DeadlineExceeded, Unavailable
from undue._grpc_aio import sleep
from undue._progress import ProgressBar
from undue._resources import Failure, JobState, Progress
from undue._retry import FOLLOW
from undue._status import from_status
from undue.v1 import jobs_pb2

from .connection import AsyncConnection


class AsyncJob:
    """A piece of work of the service. It goes on whether or not anybody watches, and outlives this object.

    What it knows is what it last heard: `refresh`, `watch` and `result` hear more.
    """

    def __init__(self, connection: AsyncConnection, message: jobs_pb2.Job) -> None:
        self._connection = connection
        self._message = message

    @property
    def name(self) -> str:
        """`jobs/{id}`; `client.jobs.get` finds the job again by it, from any process."""
        return self._message.name

    @property
    def kind(self) -> str:
        """What it does.

        "influence", "self_influence", "retrain", "fidelity", "leverage", "mislabels", "group_influence", "compare",
        "perturb", "model_validation", "dataset_validation", "index_build", "index_extend" or "index_compact".
        """
        return self._message.WhichOneof("spec") or ""

    @property
    def spec(self) -> dict[str, object]:
        """What was asked, with the versions that were settled when it was queued."""
        return _convert_jobs.job_spec(self._message)

    @property
    def state(self) -> JobState:
        """How far it has come."""
        return _convert_jobs.job_state(self._message.state)

    @property
    def progress(self) -> Progress:
        """How far it has come, in numbers."""
        return _convert_jobs.progress(self._message)

    @property
    def failure(self) -> Failure | None:
        """Why it failed; None unless it did."""
        return _convert.failure(self._message.error, self.name) if self._message.HasField("error") else None

    @property
    def attempt(self) -> int:
        """How often it was started: more than 1 where a runner was lost."""
        return self._message.attempt

    @property
    def etag(self) -> str:
        """Changes whenever the job does; `client.jobs.delete` takes it, to delete only what was seen."""
        return self._message.etag

    @property
    def create_time(self) -> datetime:
        """When it was queued."""
        return _convert.moment(self._message.create_time)

    @property
    def start_time(self) -> datetime | None:
        """When it was first started."""
        return _convert.moment(self._message.start_time) if self._message.HasField("start_time") else None

    @property
    def end_time(self) -> datetime | None:
        """When it ended."""
        return _convert.moment(self._message.end_time) if self._message.HasField("end_time") else None

    async def refresh(self) -> None:
        """Ask the service how the job stands.

        Raises:
            NotFound: it no longer exists.
            Unavailable: the service cannot be reached.
        """
        self._message = await self._connection.call(
            self._connection.jobs.GetJob, jobs_pb2.GetJobRequest(name=self.name)
        )

    async def cancel(self) -> None:
        """Stop the job; on one that has ended this changes nothing.

        Raises:
            NotFound: it no longer exists.
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.CancelJobRequest(name=self.name)
        self._message = await self._connection.call(self._connection.jobs.CancelJob, request)

    async def watch(self) -> AsyncIterator[Progress]:
        """Yield how far the job has come: now, at every change, and when it has ended. A failed job is no error here.

        Raises:
            NotFound: it no longer exists.
            Unavailable: the service stayed away for about a minute.
        """
        async for progress in self._follow(None):
            yield progress

    async def wait(self, timeout: float | None = None, progress: bool | None = None) -> None:
        """Wait until the job has succeeded.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            Unavailable: the service stayed away for about a minute.
        """
        with ProgressBar(self.name, progress) as bar:
            if not self.state.ended:
                async for step in self._follow(timeout):
                    bar.update(step)
        if self.state is JobState.FAILED:
            raise from_status(self._message.error, self.name)
        if self.state is JobState.CANCELLED:
            raise Cancelled(f"{self.name} was cancelled", reason="JOB_CANCELLED")

    async def _follow(self, timeout: float | None) -> AsyncIterator[Progress]:
        deadline = None if timeout is None else time.monotonic() + timeout
        request = jobs_pb2.WatchJobRequest(name=self.name)
        pauses = FOLLOW.pauses()
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # A server that stops in order ends its streams without an error: that too is a reason to come back.
            interruption = Unavailable(f"{self._connection.address} ended the watch of {self.name} early")
            try:
                async for message in self._connection.download(self._connection.jobs.WatchJob, request, left):
                    pauses = FOLLOW.pauses()
                    if not message.WhichOneof("spec") and self.kind:  # it comes with the first message only
                        getattr(message, self.kind).CopyFrom(getattr(self._message, self.kind))
                    self._message = message
                    yield self.progress
                    if self.state.ended:
                        return
            except Unavailable as error:
                interruption = error
            except DeadlineExceeded:
                raise self._late(timeout) from None
            pause = next(pauses, None)
            if pause is None:
                raise interruption
            if deadline is not None and time.monotonic() + pause >= deadline:
                raise self._late(timeout)
            await sleep(pause)

    def _late(self, timeout: float | None) -> DeadlineExceeded:
        text = f"{self.name} is {self.state} after {timeout} s of waiting. It goes on: wait again, or .cancel() it"
        return DeadlineExceeded(text, reason="WAIT_TIMEOUT", metadata={"job": self.name})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.kind} {self.state}>"
