"""Jobs by what they do: read what they found."""

from collections.abc import AsyncIterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from undue import _convert, _convert_jobs, _convert_retraining
from undue._errors import Internal, Unavailable
from undue._fidelity_results import FidelityResult
from undue._grpc_aio import sleep
from undue._inputs import resource_name
from undue._leverage_results import LeverageResult
from undue._resources import Dataset, Model
from undue._results import Counterfactual, InfluenceResult, RetrainResult, SelfInfluenceResult
from undue._retry import FOLLOW
from undue._tensors import decode
from undue.v1 import datasets_pb2, jobs_pb2, models_pb2

from .connection import AsyncConnection, all_pages, pages
from .group_jobs import AsyncCompareJob, AsyncGroupInfluenceJob
from .index_jobs import AsyncIndexJob
from .instances import AsyncInstances
from .jobs import AsyncJob
from .mislabel_jobs import AsyncMislabelsJob, AsyncSuspectsJob, mislabels_job_of
from .perturbing import AsyncPerturbJob

_PAGE_BYTES = 1 << 20
_EXAMPLE_BYTES = 128
_PAGE_ROWS = 1000


class AsyncInfluenceJob(AsyncJob):
    """A job that scores training rows for test rows."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> InfluenceResult:
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
        await self.wait(timeout, progress)
        spec = self._message.influence
        size = max(1, min(_PAGE_ROWS, _PAGE_BYTES // (_EXAMPLE_BYTES * (1 + 2 * spec.top_k))))
        request = jobs_pb2.ListExplanationsRequest(parent=self.name, page_size=size)
        pages = all_pages(self._connection, self._connection.jobs.ListExplanations, request, "explanations")
        test, train = (AsyncInstances(self._connection, name) for name in (spec.test, spec.train))
        found = [_convert_jobs.explanation(cast(jobs_pb2.Explanation, each), test, train) async for each in pages]
        scores = None if spec.HasField("top_k") else await self._read_scores(len(found))
        return InfluenceResult(tuple(found), scores, _convert_jobs.diagnostics(self._message.diagnostics))

    async def _read_scores(self, rows: int) -> npt.NDArray[np.float32]:
        """Return the whole score matrix; a broken stream is read again from the start."""
        pauses = FOLLOW.pauses()
        while True:
            try:
                request = jobs_pb2.ReadScoresRequest(name=self.name)
                stream = self._connection.download(self._connection.jobs.ReadScores, request)
                blocks = [(block.first, decode(block.scores)) async for block in stream]
            except Unavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise error
                await sleep(pause)
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


class AsyncSelfInfluenceJob(AsyncJob):
    """A job that ranks training rows by their influence on their own loss."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> SelfInfluenceResult:
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
        await self.wait(timeout, progress)
        request = jobs_pb2.ListSelfInfluencesRequest(parent=self.name, page_size=_PAGE_ROWS)
        pages = all_pages(self._connection, self._connection.jobs.ListSelfInfluences, request, "examples")
        train = AsyncInstances(self._connection, self._message.self_influence.train)
        found = [_convert_jobs.scored_example(cast(jobs_pb2.ScoredExample, each), train) async for each in pages]
        return SelfInfluenceResult(tuple(found), _convert_jobs.diagnostics(self._message.diagnostics))


class AsyncRetrainJob(AsyncJob):
    """A job that measures what changes when training rows are removed."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> RetrainResult:
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
        await self.wait(timeout, progress)
        request = jobs_pb2.ListCounterfactualsRequest(parent=self.name, page_size=_PAGE_ROWS)
        rows: list[int] = []
        costs: list[float] = []
        found: list[Counterfactual] = []
        async for page in pages(self._connection, self._connection.jobs.ListCounterfactuals, request):
            rows += page.rows
            costs += page.costs
            found += [_convert_retraining.counterfactual(each) for each in page.counterfactuals]
        measured = _convert_jobs.diagnostics(self._message.diagnostics)
        return RetrainResult(tuple(rows), _convert_retraining.numbers(costs), tuple(found), measured)


class AsyncFidelityJob(AsyncJob):
    """A job that holds scores against retraining."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> FidelityResult:
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
        await self.wait(timeout, progress)
        request = jobs_pb2.ListComparisonsRequest(parent=self.name, page_size=_PAGE_ROWS)
        rows: list[int] = []
        found: list[jobs_pb2.Comparison] = []
        async for page in pages(self._connection, self._connection.jobs.ListComparisons, request):
            rows += page.rows
            found += page.comparisons
        return _convert_retraining.fidelity_result(rows, found, _convert_jobs.diagnostics(self._message.diagnostics))


class AsyncLeverageJob(AsyncJob):
    """A job that computes leverage, Cook's distance and DFBETA of training rows."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> LeverageResult:
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
        await self.wait(timeout, progress)
        pauses = FOLLOW.pauses()
        while True:
            try:
                request = jobs_pb2.ReadLeveragesRequest(name=self.name)
                stream = self._connection.download(self._connection.jobs.ReadLeverages, request)
                blocks = [block async for block in stream]
            except Unavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise error
                await sleep(pause)
            else:
                return _convert_retraining.leverage_result(
                    self.name, blocks, _convert_jobs.diagnostics(self._message.diagnostics)
                )


class AsyncValidationJob(AsyncJob):
    """A job that opens and checks a model or a data set."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> Model | Dataset:
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
        await self.wait(timeout, progress)
        if self._message.HasField("model_validation"):
            of_model = models_pb2.GetModelRequest(name=self._message.model_validation.model)
            return _convert.model(await self._connection.call(self._connection.models.GetModel, of_model))
        of_dataset = datasets_pb2.GetDatasetRequest(name=self._message.dataset_validation.dataset)
        return _convert.dataset(await self._connection.call(self._connection.datasets.GetDataset, of_dataset))


AnyAsyncJob = (
    AsyncInfluenceJob
    | AsyncSelfInfluenceJob
    | AsyncRetrainJob
    | AsyncPerturbJob
    | AsyncFidelityJob
    | AsyncLeverageJob
    | AsyncMislabelsJob
    | AsyncSuspectsJob
    | AsyncGroupInfluenceJob
    | AsyncCompareJob
    | AsyncValidationJob
    | AsyncIndexJob
)


def job_of(connection: AsyncConnection, message: jobs_pb2.Job) -> AnyAsyncJob:
    """Return the object for a job, by its kind.

    Raises:
        Internal: the service is newer than this SDK.
    """
    match message.WhichOneof("spec"):
        case "influence":
            return AsyncInfluenceJob(connection, message)
        case "self_influence":
            return AsyncSelfInfluenceJob(connection, message)
        case "perturb":
            return AsyncPerturbJob(connection, message)
        case "retrain":
            return AsyncRetrainJob(connection, message)
        case "fidelity":
            return AsyncFidelityJob(connection, message)
        case "leverage":
            return AsyncLeverageJob(connection, message)
        case "mislabels":
            return mislabels_job_of(connection, message)
        case "group_influence":
            return AsyncGroupInfluenceJob(connection, message)
        case "compare":
            return AsyncCompareJob(connection, message)
        case "model_validation" | "dataset_validation":
            return AsyncValidationJob(connection, message)
        case "index_build" | "index_extend" | "index_compact":
            return AsyncIndexJob(connection, message)
    raise Internal(f"{message.name} is of a kind that this SDK does not know: upgrade undue")


class AsyncJobs:
    """The jobs of a service: `client.jobs`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, name: str) -> AnyAsyncJob:
        """Return a job by its name.

        Raises:
            InvalidArgument: it is no job's name.
            NotFound: there is no such job.
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.GetJobRequest(name=resource_name("name", "jobs", name))
        return job_of(self._connection, await self._connection.call(self._connection.jobs.GetJob, request))

    async def list(self) -> AsyncIterator[AnyAsyncJob]:
        """Yield all jobs, newest first.

        Raises:
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.ListJobsRequest()
        async for message in all_pages(self._connection, self._connection.jobs.ListJobs, request, "jobs"):
            yield job_of(self._connection, cast(jobs_pb2.Job, message))

    async def delete(self, name: AsyncJob | str, *, force: bool = False, etag: str | None = None) -> None:
        """Delete a job that has ended, and its result.

        Args:
            name: the job, or its name.
            force: cancel and delete a job that has not ended.
            etag: delete only what was seen: the `.etag` it had then.

        Raises:
            NotFound: there is no such job.
            FailedPrecondition: it has not ended (JOB_NOT_FINISHED), made a model, a data set or an index, with which
                it goes (RESOURCE_IN_USE), or has changed (ETAG_MISMATCH).
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.DeleteJobRequest(name=resource_name("name", "jobs", name), etag=etag or "", force=force)
        await self._connection.call(self._connection.jobs.DeleteJob, request)
