"""IndexService. Explain, which has a path of its own, has a file of its own."""

from asyncio import to_thread
from functools import partial

from google.protobuf import empty_pb2

from undue.v1 import indexes_pb2, indexes_pb2_grpc, jobs_pb2
from undue_service.transport import indexes, job_responses
from undue_service.transport.paging import page_size, read_name_token, read_token, request_key, write_token

from .cases import Context, UseCases, tenant
from .explaining import ExplainServicer


class IndexServicer(ExplainServicer, indexes_pb2_grpc.IndexServiceServicer):
    """See indexes.proto."""

    def __init__(self, cases: UseCases) -> None:
        super().__init__(cases)
        self._indexes = cases.indexes

    async def CreateIndex(self, request: indexes_pb2.CreateIndexRequest, context: Context) -> indexes_pb2.Index:
        """See indexes.proto."""
        spec = indexes.index_spec(request)
        if request.validate_only:
            return indexes.estimated_index(*await to_thread(self._indexes.estimate, tenant(context), spec))
        key = request_key(request, request.request_id)
        return indexes.index(await to_thread(self._indexes.create, tenant(context), spec, key))

    async def GetIndex(self, request: indexes_pb2.GetIndexRequest, context: Context) -> indexes_pb2.Index:
        """See indexes.proto."""
        return indexes.index(await to_thread(self._indexes.get, tenant(context), "name", request.name))

    async def ListIndexes(
        self, request: indexes_pb2.ListIndexesRequest, context: Context
    ) -> indexes_pb2.ListIndexesResponse:
        """See indexes.proto."""
        limit, before = page_size(request), read_token(request, "indexes")
        page = await to_thread(self._indexes.list, tenant(context), limit, before)
        return indexes_pb2.ListIndexesResponse(
            indexes=[indexes.index(one) for one in page.items], next_page_token=write_token(page.next_before, "indexes")
        )

    async def DeleteIndex(self, request: indexes_pb2.DeleteIndexRequest, context: Context) -> empty_pb2.Empty:
        """See indexes.proto."""
        delete = partial(self._indexes.delete, tenant(context), request.name, request.etag, force=request.force)
        await to_thread(delete)
        return empty_pb2.Empty()

    async def ExtendIndex(self, request: indexes_pb2.ExtendIndexRequest, context: Context) -> jobs_pb2.Job:
        """See indexes.proto."""
        key = request_key(request, request.request_id)
        job = await to_thread(self._indexes.extend, tenant(context), request.name, request.dataset, key)
        return job_responses.job(job)

    async def EraseRows(self, request: indexes_pb2.EraseRowsRequest, context: Context) -> indexes_pb2.Index:
        """See indexes.proto."""

        def erase() -> indexes_pb2.Index:  # it may name a million rows
            return indexes.index(self._indexes.erase(tenant(context), request.name, tuple(request.rows)))

        return await to_thread(erase)

    async def CompactIndex(self, request: indexes_pb2.CompactIndexRequest, context: Context) -> jobs_pb2.Job:
        """See indexes.proto."""
        key = request_key(request, request.request_id)
        return job_responses.job(await to_thread(self._indexes.compact, tenant(context), request.name, key))

    async def SetAlias(self, request: indexes_pb2.SetAliasRequest, context: Context) -> indexes_pb2.Alias:
        """See indexes.proto."""
        set_alias = partial(self._indexes.set_alias, tenant(context), request.alias.name, request.alias.index)
        return indexes.alias(await to_thread(set_alias))

    async def GetAlias(self, request: indexes_pb2.GetAliasRequest, context: Context) -> indexes_pb2.Alias:
        """See indexes.proto."""
        return indexes.alias(await to_thread(self._indexes.alias, tenant(context), request.name))

    async def ListAliases(
        self, request: indexes_pb2.ListAliasesRequest, context: Context
    ) -> indexes_pb2.ListAliasesResponse:
        """See indexes.proto."""
        limit, after = page_size(request), read_name_token(request, "aliases")
        found, more = await to_thread(self._indexes.aliases, tenant(context), limit, after)
        token = write_token(found[-1].id if more else None, "aliases")
        return indexes_pb2.ListAliasesResponse(aliases=[indexes.alias(one) for one in found], next_page_token=token)

    async def DeleteAlias(self, request: indexes_pb2.DeleteAliasRequest, context: Context) -> empty_pb2.Empty:
        """See indexes.proto."""
        await to_thread(self._indexes.delete_alias, tenant(context), request.name)
        return empty_pb2.Empty()
