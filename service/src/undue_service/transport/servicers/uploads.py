"""UploadService."""

from asyncio import to_thread
from collections.abc import AsyncIterator

from undue.v1 import (
    uploads_pb2,
    uploads_pb2_grpc,
)
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.resources import Upload
from undue_service.transport import responses
from undue_service.transport.paging import (
    request_key,
)

from .cases import Context, UseCases, tenant


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
