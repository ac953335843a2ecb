# Generated from _async/jobs.py by tools/unasync.py: change that file, then run it with `generate`.
"""Jobs: watch them, wait for them, read what they found."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from undue import _convert
from undue._errors import Cancelled, DeadlineExceeded, Internal, Unavailable
from undue._grpc_blocking import sleep
from undue._inputs import resource_name
from undue._progress import ProgressBar
from undue._resources import Dataset, Failure, JobState, Model, Progress
from undue._results import InfluenceResult, SelfInfluenceResult
from undue._retry import FOLLOW
from undue._status import from_status
from undue._tensors import decode
from undue.v1 import datasets_pb2, jobs_pb2, models_pb2

from .connection import Connection, all_pages

_PAGE_BYTES = 1 << 20
_EXAMPLE_BYTES = 128
_PAGE_ROWS = 1000


class Job:
    """A piece of work of the service. It goes on whether or not anybody watches, and outlives this object.

    What it knows is what it last heard: `refresh`, `watch` and `result` hear more.
    """

    def __init__(self, connection: Connection, message: jobs_pb2.Job) -> None:
        self._connection = connection
        self._message = message

    @property
    def name(self) -> str:
        """`jobs/{id}`; `client.jobs.get` finds the job again by it, from any process."""
        return self._message.name

    @property
    def kind(self) -> str:
        """What it does: "influence", "self_influence", "model_validation" or "dataset_validation"."""
        return self._message.WhichOneof("spec") or ""

    @property
    def spec(self) -> dict[str, object]:
        """What was asked, with the versions that were settled when it was queued."""
        return _convert.job_spec(self._message)

    @property
    def state(self) -> JobState:
        """How far it has come."""
        return _convert.job_state(self._message.state)

    @property
    def progress(self) -> Progress:
        """How far it has come, in numbers."""
        return _convert.progress(self._message)

    @property
    def failure(self) -> Failure | None:
        """Why it failed; None unless it did."""
        return _convert.failure(self._message.error, self.name) if self._message.HasField("error") else None

    @property
    def attempt(self) -> int:
        """How often it was started: more than 1 where a runner was lost."""
        return self._message.attempt

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

    def refresh(self) -> None:
        """Ask the service how the job stands.

        Raises:
            NotFound: it no longer exists.
            Unavailable: the service cannot be reached.
        """
        self._message = self._connection.call(self._connection.jobs.GetJob, jobs_pb2.GetJobRequest(name=self.name))

    def cancel(self) -> None:
        """Stop the job; on one that has ended this changes nothing.

        Raises:
            NotFound: it no longer exists.
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.CancelJobRequest(name=self.name)
        self._message = self._connection.call(self._connection.jobs.CancelJob, request)

    def watch(self) -> Iterator[Progress]:
        """Yield how far the job has come: now, at every change, and when it has ended. A failed job is no error here.

        Raises:
            NotFound: it no longer exists.
            Unavailable: the service stayed away for about a minute.
        """
        yield from self._follow(None)

    def wait(self, timeout: float | None = None, progress: bool | None = None) -> None:
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
                for step in self._follow(timeout):
                    bar.update(step)
        if self.state is JobState.FAILED:
            raise from_status(self._message.error, self.name)
        if self.state is JobState.CANCELLED:
            raise Cancelled(f"{self.name} was cancelled", reason="JOB_CANCELLED")

    def _follow(self, timeout: float | None) -> Iterator[Progress]:
        deadline = None if timeout is None else time.monotonic() + timeout
        request = jobs_pb2.WatchJobRequest(name=self.name)
        pauses = FOLLOW.pauses()
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # A server that stops in order ends its streams without an error: that too is a reason to come back.
            interruption = Unavailable(f"{self._connection.address} ended the watch of {self.name} early")
            try:
                for message in self._connection.download(self._connection.jobs.WatchJob, request, left):
                    pauses = FOLLOW.pauses()
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
            sleep(pause)

    def _late(self, timeout: float | None) -> DeadlineExceeded:
        text = f"{self.name} is {self.state} after {timeout} s of waiting. It goes on: wait again, or .cancel() it"
        return DeadlineExceeded(text, reason="WAIT_TIMEOUT", metadata={"job": self.name})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.kind} {self.state}>"


class InfluenceJob(Job):
    """A job that scores training rows for test rows."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> InfluenceResult:
        """Wait for the job and return what it found.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            Unavailable: the service stayed away.
        """
        self.wait(timeout, progress)
        spec = self._message.influence
        size = max(1, min(_PAGE_ROWS, _PAGE_BYTES // (_EXAMPLE_BYTES * (1 + 2 * spec.top_k))))
        request = jobs_pb2.ListExplanationsRequest(parent=self.name, page_size=size)
        pages = all_pages(self._connection, self._connection.jobs.ListExplanations, request, "explanations")
        found = [_convert.explanation(cast(jobs_pb2.Explanation, message)) for message in pages]
        scores = None if spec.HasField("top_k") else self._read_scores(len(found))
        return InfluenceResult(tuple(found), scores, _convert.diagnostics(self._message.diagnostics))

    def _read_scores(self, rows: int) -> npt.NDArray[np.float32]:
        """Return the whole score matrix; a broken stream is read again from the start."""
        pauses = FOLLOW.pauses()
        while True:
            try:
                request = jobs_pb2.ReadScoresRequest(name=self.name)
                stream = self._connection.download(self._connection.jobs.ReadScores, request)
                blocks = [(block.first, decode(block.scores)) for block in stream]
            except Unavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise error
                sleep(pause)
            else:
                return self._assemble(rows, blocks)

    def _assemble(self, rows: int, blocks: list[tuple[int, npt.NDArray[Any]]]) -> npt.NDArray[np.float32]:
        reached = 0
        for first, block in blocks:
            fits = block.ndim == 2 and block.dtype == np.float32 and block.shape[1] == blocks[0][1].shape[1]
            if first != reached or not fits:
                raise Internal(f"the scores of {self.name} came in blocks that do not fit together")
            reached += block.shape[0]
        if reached != rows:
            raise Internal(f"{self.name} explains {rows} test rows but sent the scores of {reached}")
        return np.concatenate([block for _, block in blocks]) if blocks else np.zeros((0, 0), np.float32)


class SelfInfluenceJob(Job):
    """A job that ranks training rows by their influence on their own loss."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> SelfInfluenceResult:
        """Wait for the job and return what it found.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            Unavailable: the service stayed away.
        """
        self.wait(timeout, progress)
        request = jobs_pb2.ListSelfInfluencesRequest(parent=self.name, page_size=_PAGE_ROWS)
        pages = all_pages(self._connection, self._connection.jobs.ListSelfInfluences, request, "examples")
        found = [_convert.scored_example(cast(jobs_pb2.ScoredExample, message)) for message in pages]
        return SelfInfluenceResult(tuple(found), _convert.diagnostics(self._message.diagnostics))


class ValidationJob(Job):
    """A job that opens and checks a model or a data set."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> Model | Dataset:
        """Wait for the job and return the model or data set, now READY.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            Unavailable: the service stayed away.
        """
        self.wait(timeout, progress)
        if self._message.HasField("model_validation"):
            of_model = models_pb2.GetModelRequest(name=self._message.model_validation.model)
            return _convert.model(self._connection.call(self._connection.models.GetModel, of_model))
        of_dataset = datasets_pb2.GetDatasetRequest(name=self._message.dataset_validation.dataset)
        return _convert.dataset(self._connection.call(self._connection.datasets.GetDataset, of_dataset))


AnyJob = InfluenceJob | SelfInfluenceJob | ValidationJob


def job_of(connection: Connection, message: jobs_pb2.Job) -> AnyJob:
    """Return the object for a job, by its kind.

    Raises:
        Internal: the service is newer than this SDK.
    """
    match message.WhichOneof("spec"):
        case "influence":
            return InfluenceJob(connection, message)
        case "self_influence":
            return SelfInfluenceJob(connection, message)
        case "model_validation" | "dataset_validation":
            return ValidationJob(connection, message)
    raise Internal(f"{message.name} is of a kind that this SDK does not know: upgrade undue")


class Jobs:
    """The jobs of a service: `client.jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> AnyJob:
        """Return a job by its name.

        Raises:
            InvalidArgument: it is no job's name.
            NotFound: there is no such job.
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.GetJobRequest(name=resource_name("name", "jobs", name))
        return job_of(self._connection, self._connection.call(self._connection.jobs.GetJob, request))

    def list(self) -> Iterator[AnyJob]:
        """Yield all jobs, newest first.

        Raises:
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.ListJobsRequest()
        for message in all_pages(self._connection, self._connection.jobs.ListJobs, request, "jobs"):
            yield job_of(self._connection, cast(jobs_pb2.Job, message))
