"""ServerService."""

from undue.v1 import (
    server_info_pb2,
    server_info_pb2_grpc,
)
from undue_service import __version__
from undue_service.application.uploads import MAX_CHUNK_BYTES
from undue_service.domain.methods import METHODS
from undue_service.transport import responses
from undue_service.transport.paging import MAX_PAGE_SIZE

from .cases import Context, UseCases


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
        allowed = self._cases.registrations.architectures.allowed
        return responses.server_info(__version__, METHODS.values(), limits, self._cases.pool.status(), allowed)
