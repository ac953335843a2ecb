"""The boundary with gRPC: a status and its google.rpc details become an error of the SDK; no transport type passes."""

from collections.abc import Iterable
from typing import Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ._errors import ERRORS_BY_CODE, Error, FieldViolation, Internal, JobFailed, Unavailable, Unimplemented

_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "undue"


class _Outcome(Protocol):
    """What a failed call knows; both flavours of gRPC errors have it."""

    def code(self) -> grpc.StatusCode | None: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def from_rpc_error(error: grpc.RpcError, address: str) -> Error:
    """Return the error that a failed call stands for."""
    outcome = cast(_Outcome, error)
    code = outcome.code() or grpc.StatusCode.UNKNOWN
    status = status_pb2.Status(message=outcome.details() or "")
    for key, value in outcome.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                continue  # a proxy's own idea of this header; code and text still say what happened
    cls = ERRORS_BY_CODE.get(code.name, Internal)
    failure = _filled(cls, code.name, status)
    if failure.reason == code.name:  # not from a service of ours: say where it came from
        failure.message = _explained(cls, failure.message, address)
        failure.args = (failure.message,)
    return failure


def from_status(status: status_pb2.Status, job: str) -> JobFailed:
    """Return the error for a failure that a job keeps."""
    failure = cast(JobFailed, _filled(JobFailed, _code_name(status.code), status, prefix=f"{job} failed: "))
    failure.job = job
    return failure


def _filled(cls: type[Error], fallback_reason: str, status: status_pb2.Status, prefix: str = "") -> Error:
    reason, metadata, request_id, violations = fallback_reason, {}, None, []
    for detail in status.details:
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
        bad = error_details_pb2.BadRequest()
        try:
            if detail.Unpack(info) and info.domain == _DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(request):
                request_id = request.request_id or None
            elif detail.Unpack(bad):
                violations = [FieldViolation(each.field, each.description) for each in bad.field_violations]
        except DecodeError:
            continue
    message = prefix + (status.message or fallback_reason.lower().replace("_", " "))
    return cls(message, reason=reason, metadata=metadata, request_id=request_id, violations=tuple(violations))


def _code_name(code: int) -> str:
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else "UNKNOWN"


def _explained(cls: type[Error], message: str, address: str) -> str:
    if cls is Unavailable:
        return f"no undue service answers at {address}: is it running, and is the address right? ({message})"
    if cls is Unimplemented:
        return f"the server at {address} does not know this call: is it undue, and of this SDK's version? ({message})"
    return f"{message} (from {address})"
