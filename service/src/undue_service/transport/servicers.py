"""The services: each method turns a request into values, calls one use case, and turns the answer into a message.

Use cases do short, blocking work on files and the database, so they run in threads.
"""

from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc.aio
from google.protobuf import empty_pb2

from undue.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    server_info_pb2,
    server_info_pb2_grpc,
    uploads_pb2,
    uploads_pb2_grpc,
)
from undue_service import __version__
from undue_service.application.deletion import Deletions
from undue_service.application.instances import InstanceReader
from undue_service.application.jobs import Jobs
from undue_service.application.ports import WorkerPool
from undue_service.application.registration import Registrations
from undue_service.application.results import Results
from undue_service.application.uploads import MAX_CHUNK_BYTES, Uploads
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.methods import METHODS
from undue_service.domain.names import DEFAULT_TENANT
from undue_service.domain.resources import Upload

from . import requests, responses
from .paging import MAX_PAGE_BYTES, MAX_PAGE_SIZE, PageRequest, page_size, read_token, request_key, write_token
from .sources import Digest

T = TypeVar("T")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicers call."""

    uploads: Uploads
    registrations: Registrations
    jobs: Jobs
    results: Results
    deletions: Deletions
    instances: InstanceReader
    pool: WorkerPool


def tenant(_: Context) -> str:
    """Return whose call this is: until there are tokens, everybody's."""
    return DEFAULT_TENANT


class UploadServicer(uploads_pb2_grpc.UploadServiceServicer):
    """See uploads.proto."""

    def __init__(self, cases: UseCases) -> None:
        self._uploads = cases.uploads

    async def CreateUpload(self, request: uploads_pb2.CreateUploadRequest, context: Context) -> uploads_pb2.Upload:
        """See uploads.proto."""
        key, declared = request_key(request, request.request_id), request.upload
        made = await to_thread(self._uploads.create, tenant(context), declared.size_bytes, declared.sha256, key)
        return await self._answer(made)

    async def WriteUpload(
        self, request_iterator: AsyncIterator[uploads_pb2.WriteUploadRequest], context: Context
    ) -> uploads_pb2.Upload:
        """See uploads.proto."""
        name, write, latest = "", None, None
        async for chunk in request_iterator:
            if write is None:
                name = chunk.name
                write = await to_thread(self._uploads.writer, tenant(context), name)
            elif chunk.name not in ("", name):
                raise InvalidArgument.at("name", "one stream writes one upload")
            latest = await to_thread(write, chunk.offset, chunk.data, chunk.sha256)
        if latest is None:
            raise InvalidArgument.at("name", "the stream ended before its first chunk")
        return await self._answer(latest)

    async def GetUpload(self, request: uploads_pb2.GetUploadRequest, context: Context) -> uploads_pb2.Upload:
        """See uploads.proto."""
        return await self._answer(await to_thread(self._uploads.get, tenant(context), request.name))

    async def _answer(self, upload: Upload) -> uploads_pb2.Upload:
        return responses.upload(upload, await to_thread(self._uploads.received, upload))


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """See models.proto."""

    def __init__(self, cases: UseCases) -> None:
        self._deletions = cases.deletions
        self._registrations = cases.registrations
        self._uploads = cases.uploads

    async def CreateModel(self, request: models_pb2.CreateModelRequest, context: Context) -> models_pb2.Model:
        """See models.proto."""
        spec = await to_thread(requests.model_spec, request, _digests(self._uploads, tenant(context)))
        key = request_key(request, request.request_id)
        made = await to_thread(self._registrations.create_model, tenant(context), request.model_id, spec, key)
        return responses.model(made)

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.Model:
        """See models.proto."""
        return responses.model(
            await to_thread(self._registrations.get, tenant(context), "models", "name", request.name)
        )

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """See models.proto."""
        listing = f"models {request.parent}"
        limit, before = page_size(request), read_token(request, listing)
        page = await to_thread(self._registrations.list, tenant(context), "models", request.parent, limit, before)
        models = [responses.model(one) for one in page.items]
        return models_pb2.ListModelsResponse(models=models, next_page_token=write_token(page.next_before, listing))

    async def DeleteModel(self, request: models_pb2.DeleteModelRequest, context: Context) -> empty_pb2.Empty:
        """See models.proto."""
        delete = partial(self._deletions.registration, tenant(context), "models", force=request.force)
        await to_thread(delete, request.name, request.etag)
        return empty_pb2.Empty()


class DatasetServicer(datasets_pb2_grpc.DatasetServiceServicer):
    """See datasets.proto."""

    def __init__(self, cases: UseCases) -> None:
        self._deletions = cases.deletions
        self._instances = cases.instances
        self._registrations = cases.registrations
        self._uploads = cases.uploads

    async def CreateDataset(self, request: datasets_pb2.CreateDatasetRequest, context: Context) -> datasets_pb2.Dataset:
        """See datasets.proto."""
        source = await to_thread(requests.data_source, request, _digests(self._uploads, tenant(context)))
        key = request_key(request, request.request_id)
        made = await to_thread(self._registrations.create_dataset, tenant(context), request.dataset_id, source, key)
        return responses.dataset(made)

    async def GetDataset(self, request: datasets_pb2.GetDatasetRequest, context: Context) -> datasets_pb2.Dataset:
        """See datasets.proto."""
        return responses.dataset(
            await to_thread(self._registrations.get, tenant(context), "datasets", "name", request.name)
        )

    async def ListDatasets(
        self, request: datasets_pb2.ListDatasetsRequest, context: Context
    ) -> datasets_pb2.ListDatasetsResponse:
        """See datasets.proto."""
        listing = f"datasets {request.parent}"
        limit, before = page_size(request), read_token(request, listing)

        def page(most: int) -> datasets_pb2.ListDatasetsResponse:
            found = self._registrations.list(tenant(context), "datasets", request.parent, most, before)
            datasets = [responses.dataset(one) for one in found.items]
            token = write_token(found.next_before, listing)
            answer = datasets_pb2.ListDatasetsResponse(datasets=datasets, next_page_token=token)
            # A data set names its columns and files; see ListJobs.
            return page(most // 2) if answer.ByteSize() > MAX_PAGE_BYTES and most > 1 else answer

        return await to_thread(page, limit)

    async def DeleteDataset(self, request: datasets_pb2.DeleteDatasetRequest, context: Context) -> empty_pb2.Empty:
        """See datasets.proto."""
        delete = partial(self._deletions.registration, tenant(context), "datasets", force=request.force)
        await to_thread(delete, request.name, request.etag)
        return empty_pb2.Empty()

    async def ReadRows(
        self, request: datasets_pb2.ReadRowsRequest, context: Context
    ) -> AsyncIterator[datasets_pb2.RowBlock]:
        """See datasets.proto."""
        async for block in self._instances.read(tenant(context), request.name, tuple(request.rows)):
            yield responses.row_block(block)


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """See jobs.proto."""

    def __init__(self, cases: UseCases) -> None:
        self._deletions = cases.deletions
        self._jobs = cases.jobs
        self._results = cases.results

    async def CreateJob(self, request: jobs_pb2.CreateJobRequest, context: Context) -> jobs_pb2.Job:
        """See jobs.proto."""
        spec, timeout = requests.job_spec(request)
        if request.validate_only:
            settled, estimate = await to_thread(self._jobs.estimate, tenant(context), spec)
            return responses.estimated_job(settled, timeout, estimate)
        key = request_key(request, request.request_id)
        return responses.job(await to_thread(self._jobs.create, tenant(context), spec, timeout, key))

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.Job:
        """See jobs.proto."""
        return responses.job(await to_thread(self._jobs.get, tenant(context), request.name))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        """See jobs.proto."""
        limit, before = page_size(request), read_token(request, "jobs")

        def page(most: int) -> jobs_pb2.ListJobsResponse:
            found = self._jobs.list(tenant(context), most, before)
            jobs = [responses.job(one) for one in found.items]
            answer = jobs_pb2.ListJobsResponse(jobs=jobs, next_page_token=write_token(found.next_before, "jobs"))
            # A job holds its rows; a page of large ones is made smaller rather than refused by the client.
            return page(most // 2) if answer.ByteSize() > MAX_PAGE_BYTES and most > 1 else answer

        return await to_thread(page, limit)

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.Job:
        """See jobs.proto."""
        return responses.job(await to_thread(self._jobs.cancel, tenant(context), request.name))

    async def WatchJob(self, request: jobs_pb2.WatchJobRequest, context: Context) -> AsyncIterator[jobs_pb2.Job]:
        """See jobs.proto."""
        async for job in self._jobs.watch(tenant(context), request.name):
            yield responses.job(job)

    async def DeleteJob(self, request: jobs_pb2.DeleteJobRequest, context: Context) -> empty_pb2.Empty:
        """See jobs.proto."""
        await to_thread(partial(self._deletions.job, tenant(context), request.name, request.etag, force=request.force))
        return empty_pb2.Empty()

    async def ListExplanations(
        self, request: jobs_pb2.ListExplanationsRequest, context: Context
    ) -> jobs_pb2.ListExplanationsResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"explanations {request.parent}")

        def page() -> jobs_pb2.ListExplanationsResponse:
            found, more = self._results.explanations(tenant(context), request.parent, start, limit)
            messages = [responses.explanation(one) for one in found]
            return jobs_pb2.ListExplanationsResponse(explanations=messages, next_page_token=write_token(more, listing))

        return await to_thread(page)

    async def ListSelfInfluences(
        self, request: jobs_pb2.ListSelfInfluencesRequest, context: Context
    ) -> jobs_pb2.ListSelfInfluencesResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"self_influences {request.parent}")

        def page() -> jobs_pb2.ListSelfInfluencesResponse:
            found, more = self._results.self_influences(tenant(context), request.parent, start, limit)
            messages = [responses.scored_example(one) for one in found]
            return jobs_pb2.ListSelfInfluencesResponse(examples=messages, next_page_token=write_token(more, listing))

        return await to_thread(page)

    async def ReadExplanations(
        self, request: jobs_pb2.ReadExplanationsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.Explanation]:
        """See jobs.proto."""
        async for one in _all_pages(partial(self._results.explanations, tenant(context), request.name)):
            yield responses.explanation(one)

    async def ReadSelfInfluences(
        self, request: jobs_pb2.ReadSelfInfluencesRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.ScoredExample]:
        """See jobs.proto."""
        async for one in _all_pages(partial(self._results.self_influences, tenant(context), request.name)):
            yield responses.scored_example(one)

    async def ListCounterfactuals(
        self, request: jobs_pb2.ListCounterfactualsRequest, context: Context
    ) -> jobs_pb2.ListCounterfactualsResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"counterfactuals {request.parent}")

        def page() -> jobs_pb2.ListCounterfactualsResponse:
            answer = jobs_pb2.ListCounterfactualsResponse()
            more: int | None = start
            if not request.page_token:
                rows, costs = self._results.measured(tenant(context), request.parent)
                answer.rows.extend(rows.tolist())
                answer.costs.extend(costs.tolist())
            # The first page of very many test rows has those alone; the page after it starts at 0.
            if answer.ByteSize() <= MAX_PAGE_BYTES // 2:
                found, more = self._results.counterfactuals(tenant(context), request.parent, start, limit)
                answer.counterfactuals.extend(responses.counterfactual(one) for one in found)
            answer.next_page_token = write_token(more, listing)
            return answer

        return await to_thread(page)

    async def ReadCounterfactuals(
        self, request: jobs_pb2.ReadCounterfactualsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.Counterfactual]:
        """See jobs.proto."""
        blocks = await to_thread(self._results.counterfactual_blocks, tenant(context), request.name)
        while (block := await to_thread(next, blocks, None)) is not None:
            for one in block:
                yield responses.counterfactual(one)

    async def ReadScores(
        self, request: jobs_pb2.ReadScoresRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.ScoreBlock]:
        """See jobs.proto."""
        blocks: Iterator[Any] = await to_thread(self._results.score_blocks, tenant(context), request.name)
        while (block := await to_thread(next, blocks, None)) is not None:
            yield responses.score_block(*block)


class ServerServicer(server_info_pb2_grpc.ServerServiceServicer):
    """See server_info.proto."""

    def __init__(self, cases: UseCases) -> None:
        self._cases = cases

    async def GetServerInfo(
        self, request: server_info_pb2.GetServerInfoRequest, context: Context
    ) -> server_info_pb2.ServerInfo:
        """See server_info.proto."""
        limits = server_info_pb2.Limits(
            max_upload_bytes=self._cases.uploads.max_bytes, max_chunk_bytes=MAX_CHUNK_BYTES, max_page_size=MAX_PAGE_SIZE
        )
        return responses.server_info(__version__, METHODS.values(), limits, self._cases.pool.status())


async def _all_pages(fetch: Callable[[int, int], tuple[tuple[T, ...], int | None]]) -> AsyncIterator[T]:
    """Yield everything that fetch(start, count) pages through."""
    start: int | None = 0
    while start is not None:
        found, start = await to_thread(fetch, start, MAX_PAGE_SIZE)
        for one in found:
            yield one


def _digests(uploads: Uploads, owner: str) -> Digest:
    """Return how a request's uploads and inline bytes become artifacts."""

    def digest(field: str, content: str | bytes) -> str:
        return (
            uploads.finished_digest(owner, field, content) if isinstance(content, str) else uploads.keep(owner, content)
        )

    return digest


def _result_page(request: PageRequest, listing: str) -> tuple[int, int, str]:
    return read_token(request, listing) or 0, page_size(request), listing
