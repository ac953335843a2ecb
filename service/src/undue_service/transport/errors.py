"""The error table between the domain and gRPC.

Every error leaves as a google.rpc.Status with one ErrorInfo (AIP-193), field violations where a field is wrong, and
the request id.
"""

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from undue_service.domain.errors import ERRORS_BY_CODE, Error, FieldViolation
from undue_service.domain.jobs import Failure

DOMAIN = "undue"
STATUS_DETAILS = "grpc-status-details-bin"

STATUS_CODES: Mapping[str, grpc.StatusCode] = {code: grpc.StatusCode[code] for code in ERRORS_BY_CODE}


def to_status(error: Error, request_id: str = "") -> status_pb2.Status:
    """Return the error as a google.rpc.Status."""
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RequestInfo]
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=one.field, description=one.description, reason=one.reason)
            for one in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def to_trailer(error: Error, request_id: str) -> tuple[str, bytes]:
    """Return message and status for a call's trailers, which gRPC refuses whole beyond 8 KiB: long texts are cut.

    What is cut here can be read in full where the error is kept, in a job or a model.
    """
    short = type(error)(
        error.reason,
        _cut(error.message, 1500),
        metadata={_cut(key, 60): _cut(value, 200) for key, value in list(error.metadata.items())[:8]},
        violations=tuple(
            FieldViolation(_cut(one.field, 200), _cut(one.description, 300), one.reason) for one in error.violations[:4]
        ),
    )
    return short.message, to_status(short, request_id).SerializeToString()


def _cut(text: str, most: int) -> str:
    return text if len(text.encode()) <= most else text.encode()[: most - 3].decode(errors="ignore") + "…"


def failure_to_status(failure: Failure) -> status_pb2.Status:
    """Return a kept error as a google.rpc.Status."""
    return to_status(failure.error())
