"""What happens around every call: a request id, the rules of proto/, a log line, and errors that become statuses."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from undue_service.application.ports import Metrics
from undue_service.domain.errors import Error, Internal, InvalidArgument, Reason, Unimplemented
from undue_service.logs import REQUEST_ID

from .errors import STATUS_CODES, STATUS_DETAILS, to_trailer
from .validation import check

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of ours. Health and reflection pass through."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if not method.startswith("/undue."):
            return handler
        if handler is None:
            handler = grpc.unary_unary_rpc_method_handler(_unknown(method))
            method = "/undue/unknown"  # a caller's text is no label of a metric
        given = dict(handler_call_details.invocation_metadata or ()).get(REQUEST_ID_HEADER, "")
        # A header is the caller's text: only what looks like an id goes into logs and answers.
        identity = (
            str(given) if 0 < len(str(given)) <= 64 and str(given).replace("-", "").isalnum() else secrets.token_hex(8)
        )
        deserializer = _tolerant(handler.request_deserializer)
        if handler.response_streaming:
            inner: Any = handler.unary_stream

            async def stream(request: Any, context: "Context") -> AsyncIterator[Any]:
                async with _Call(method, "server_stream", identity, context, self._metrics):
                    _check(request)
                    async for response in inner(request, context):
                        yield response

            return grpc.unary_stream_rpc_method_handler(stream, deserializer, handler.response_serializer)
        if handler.request_streaming:
            inner_stream: Any = handler.stream_unary

            async def upload(requests: AsyncIterator[Any], context: "Context") -> Any:
                async with _Call(method, "client_stream", identity, context, self._metrics):
                    return await inner_stream(_checked(requests), context)

            return grpc.stream_unary_rpc_method_handler(upload, deserializer, handler.response_serializer)
        inner_unary: Any = handler.unary_unary

        async def unary(request: Any, context: "Context") -> Any:
            async with _Call(method, "unary", identity, context, self._metrics):
                _check(request)
                return await inner_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(unary, deserializer, handler.response_serializer)


def _unknown(method: str) -> Callable[[bytes, "Context"], Awaitable[bytes]]:
    async def refuse(request: bytes, context: "Context") -> bytes:  # noqa: ARG001  gRPC's signature
        text = f"this service has no method {method[:200]}: it is older or newer than the caller's stubs"
        raise Unimplemented(Reason.RPC_UNKNOWN, text)

    return refuse


class _Malformed:
    """Stands for a request whose bytes do not parse, so that its error is one of ours."""


def _tolerant(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data) if deserializer is not None else data
        except DecodeError:
            return _Malformed()

    return deserialize


def _check(request: Any) -> None:
    if isinstance(request, _Malformed):
        text = "the bytes of the request are not the message that the method takes: compare the versions of the stubs"
        raise InvalidArgument(Reason.REQUEST_MALFORMED, text)
    if isinstance(request, Message):
        check(request)


async def _checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _check(request)
        yield request


class _Call:
    """One call: logs how it went and aborts it with a typed status where it went wrong."""

    def __init__(self, method: str, kind: str, identity: str, context: "Context", metrics: Metrics) -> None:
        self._method, self._kind, self._identity = method, kind, identity
        self._context, self._metrics = context, metrics

    async def __aenter__(self) -> None:
        self._start = time.perf_counter()
        REQUEST_ID.set(self._identity)
        self._metrics.call_started(self._method, self._kind)
        await self._context.send_initial_metadata(((REQUEST_ID_HEADER, self._identity),))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._end("OK" if error is None else "CANCELLED")
            return
        if not isinstance(error, Error):
            log.error("unexpected error", exc_info=error, extra={"method": self._method})
            error = Internal(Reason.INTERNAL, f"a fault of the service; its log has request {self._identity}")
        self._end(error.code, error.reason)
        message, details = to_trailer(error, self._identity)
        await self._context.abort(STATUS_CODES[error.code], message, ((STATUS_DETAILS, details),))

    def _end(self, code: str, reason: str = "") -> None:
        seconds = time.perf_counter() - self._start
        self._metrics.call_handled(self._method, self._kind, code, seconds)
        milliseconds = round(1000 * seconds, 1)
        extra = {
            "method": self._method,
            "code": code,
            "reason": reason,
            "ms": milliseconds,
        }
        log.info("call", extra=extra)
