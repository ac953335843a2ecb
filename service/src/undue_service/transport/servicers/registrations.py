"""ModelService and DatasetService."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from functools import partial

from google.protobuf import empty_pb2

from undue.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)
from undue_service.application.uploads import Uploads
from undue_service.transport import requests, responses
from undue_service.transport.paging import (
    page_size,
    read_token,
    request_key,
    write_token,
)
from undue_service.transport.sources import Digest

from .cases import Context, UseCases, tenant


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
        page = await to_thread(self._registrations.list, tenant(context), "datasets", request.parent, limit, before)
        datasets = [responses.dataset(one) for one in page.items]
        return datasets_pb2.ListDatasetsResponse(
            datasets=datasets, next_page_token=write_token(page.next_before, listing)
        )

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


def _digests(uploads: Uploads, owner: str) -> Digest:
    """Return how a request's uploads and inline bytes become artifacts."""

    def digest(field: str, content: str | bytes) -> str:
        return (
            uploads.finished_digest(owner, field, content) if isinstance(content, str) else uploads.keep(owner, content)
        )

    return digest
