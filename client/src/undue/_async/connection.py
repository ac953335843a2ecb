"""A channel with the rules of calling: retries, deadlines, and errors of the SDK only."""

from __future__ import annotations  # gRPC's classes are generic for type checkers only

import os
import time
import weakref
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

import grpc

from undue._errors import FailedPrecondition, Unavailable, invalid
from undue._grpc_aio import (
    DownloadMethod,
    Gate,
    UnaryMethod,
    UploadMethod,
    close_channel,
    forget_channel,
    open_channel,
    sleep,
)
from undue._retry import CALL
from undue._status import from_rpc_error
from undue.v1 import (
    datasets_pb2_grpc,
    indexes_pb2_grpc,
    jobs_pb2_grpc,
    models_pb2_grpc,
    server_info_pb2_grpc,
    uploads_pb2_grpc,
)

Request = TypeVar("Request")
Response = TypeVar("Response")

CALL_SECONDS = 60.0
"""No single call may hang longer than this; the long work is in jobs, which are watched."""

READS_AT_ONCE = 8
"""Instances are read one call after the other; the service refuses a caller that lets many more wait."""

_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
]


class AsyncConnection:
    """A service at an address.

    Raises:
        InvalidArgument: the address is empty.
    """

    def __init__(self, address: str) -> None:
        if not isinstance(address, str) or not address.strip():
            raise invalid("address", f"{address!r} is not an address such as '127.0.0.1:50051' or 'unix:/path'")
        self.address = address
        self._owner = os.getpid()
        self._closed = False
        # A proxy for the web has no business between this process and its own machine.
        proxy = [("grpc.enable_http_proxy", 0)] if address.startswith(("127.", "localhost:", "[::1]", "unix:")) else []
        self._channel = open_channel(address, _OPTIONS + proxy)
        # Before the finaliser of an embedded service, which would otherwise cut a live channel and make gRPC complain.
        self._finalizer = weakref.finalize(self, forget_channel, self._channel, self._owner)
        self.models = models_pb2_grpc.ModelServiceStub(self._channel)
        self.datasets = datasets_pb2_grpc.DatasetServiceStub(self._channel)
        self.jobs = jobs_pb2_grpc.JobServiceStub(self._channel)
        self.indexes = indexes_pb2_grpc.IndexServiceStub(self._channel)
        self.uploads = uploads_pb2_grpc.UploadServiceStub(self._channel)
        self.server = server_info_pb2_grpc.ServerServiceStub(self._channel)
        self.reading = Gate(READS_AT_ONCE)

    async def call(
        self, method: UnaryMethod[Request, Response], request: Request, deadline: float | None = None
    ) -> Response:
        """Make a call that may be made again without harm, a few times while the service is unavailable.

        Args:
            method: the call.
            request: what is sent.
            deadline: moment of the monotonic clock after which nobody waits for any of the attempts.

        Raises:
            Error: whatever the service answered.
        """
        pauses = CALL.pauses()
        while True:
            self._check()
            left = CALL_SECONDS if deadline is None else max(0.0, min(CALL_SECONDS, deadline - time.monotonic()))
            try:
                return await method(request, timeout=left)
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self.address)
            pause = next(pauses, None)
            if pause is None or not isinstance(failure, Unavailable):
                raise failure
            if deadline is not None and time.monotonic() + pause >= deadline:
                raise failure
            await sleep(pause)

    async def download(
        self, method: DownloadMethod[Request, Response], request: Request, timeout: float | None = None
    ) -> AsyncIterator[Response]:
        """Yield what a stream sends; a broken one is the caller's to resume.

        Raises:
            Error: whatever the service answered.
        """
        self._check()
        stream = method(request, timeout=timeout)
        try:
            async for message in stream:
                yield message
        except grpc.RpcError as error:
            failure = from_rpc_error(error, self.address)
        else:
            return
        finally:
            stream.cancel()
        raise failure

    async def upload(self, method: UploadMethod[Request, Response], requests: Iterable[Request]) -> Response:
        """Send a stream; a broken one is the caller's to resume.

        Raises:
            Error: whatever the service answered.
        """
        self._check()
        try:
            return await method(iter(requests))
        except grpc.RpcError as error:
            failure = from_rpc_error(error, self.address)
        raise failure

    async def close(self) -> None:
        """Close the channel and cancel its calls. Twice does nothing more."""
        if not self._closed and os.getpid() == self._owner:
            self._closed = True
            self._finalizer.detach()
            await close_channel(self._channel)

    def _check(self) -> None:
        if self._closed:
            raise FailedPrecondition("this client is closed; make a new one", reason="CLIENT_CLOSED")
        if os.getpid() != self._owner:
            text = "this client was made before a fork, which gRPC does not survive: make a client in each process"
            raise FailedPrecondition(text, reason="CLIENT_FORKED")


async def all_pages(
    connection: AsyncConnection, method: UnaryMethod[Request, Response], request: Request, field: str
) -> AsyncIterator[object]:
    """Yield the items of `field` over all pages of a listing (AIP-158).

    Raises:
        Error: whatever the service answered.
    """
    async for page in pages(connection, method, request):
        for item in getattr(page, field):
            yield item


async def pages(
    connection: AsyncConnection, method: UnaryMethod[Request, Response], request: Request
) -> AsyncIterator[Response]:
    """Yield the pages of a listing (AIP-158).

    Raises:
        Error: whatever the service answered.
    """
    while True:
        page = await connection.call(method, request)
        yield page
        token: str = getattr(page, "next_page_token")  # noqa: B009 (responses share no base that has it)
        if not token:
            return
        setattr(request, "page_token", token)  # noqa: B010
