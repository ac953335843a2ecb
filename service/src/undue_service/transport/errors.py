"""The error table between the domain and gRPC.

Every error leaves as a google.rpc.Status with one ErrorInfo (AIP-193), field violations where a field is wrong, and
the request id.
"""

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from undue_service.domain.errors import ERRORS_BY_CODE, Error
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
            error_details_pb2.BadRequest.FieldViolation(
                field=one.field, description=one.description, reason=error.reason
            )
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


def failure_to_status(failure: Failure) -> status_pb2.Status:
    """Return a kept error as a google.rpc.Status."""
    return to_status(failure.error())
