"""Every failure that the SDK reports.

undue.Error
├── InvalidArgument      the call is wrong; making it again cannot help
├── NotFound             a named resource does not exist
├── AlreadyExists        the resource, or the request id, is taken
├── PermissionDenied     the caller may not do this
├── Unauthenticated      the service does not know the caller
├── QuotaExceeded        a limit was met; the message names it
├── FailedPrecondition   the call is right but something is not in the state for it
├── Unavailable          the service cannot be reached just now; try again
├── DeadlineExceeded     time ran out
├── Cancelled            somebody cancelled it
├── Unimplemented        this installation cannot do it
├── Internal             a fault of the service
└── JobFailed            a job that was waited for ended badly
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong."""

    field: str
    """Path in the request message, as in the API."""
    description: str


class Error(Exception):
    """A failure; the root of the tree. The message says what is wrong and what to do about it.

    Attributes:
        message: what is wrong, for people.
        reason: why, for programs: UPPER_SNAKE and stable (`undue.v1.ErrorReason`, or the gRPC status without one).
        metadata: details of the reason, by name.
        request_id: what to quote to the service's operator; None where the failure never reached the service.
        violations: the fields that are wrong.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        request_id: str | None = None,
        violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code
        self.metadata = dict(metadata or {})
        self.request_id = request_id
        self.violations = violations

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"


class InvalidArgument(Error):
    """The call is wrong; making it again cannot help."""

    code = "INVALID_ARGUMENT"


class NotFound(Error):
    """A named resource does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(Error):
    """The resource, or the request id, is taken."""

    code = "ALREADY_EXISTS"


class PermissionDenied(Error):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(Error):
    """The service does not know the caller."""

    code = "UNAUTHENTICATED"


class QuotaExceeded(Error):
    """A limit was met; the message names it."""

    code = "RESOURCE_EXHAUSTED"


class FailedPrecondition(Error):
    """The call is right but something is not in the state for it."""

    code = "FAILED_PRECONDITION"


class Unavailable(Error):
    """The service cannot be reached just now; try again."""

    code = "UNAVAILABLE"


class DeadlineExceeded(Error):
    """Time ran out."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(Error):
    """Somebody cancelled it."""

    code = "CANCELLED"


class Unimplemented(Error):
    """This installation cannot do it."""

    code = "UNIMPLEMENTED"


class Internal(Error):
    """A fault of the service."""

    code = "INTERNAL"


class JobFailed(Error):
    """A job that was waited for ended badly; reason and metadata are those of its failure.

    Attributes:
        job: resource name of the job.
    """

    code = "JOB_FAILED"
    job: str = ""


class ModelWarning(UserWarning):
    """What the owner of a model should know before trusting scores computed from it."""


ERRORS_BY_CODE: Mapping[str, type[Error]] = {
    "CANCELLED": Cancelled,
    "UNKNOWN": Internal,
    "INVALID_ARGUMENT": InvalidArgument,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": QuotaExceeded,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": Unavailable,
    "OUT_OF_RANGE": InvalidArgument,
    "UNIMPLEMENTED": Unimplemented,
    "INTERNAL": Internal,
    "UNAVAILABLE": Unavailable,
    "DATA_LOSS": Internal,
    "UNAUTHENTICATED": Unauthenticated,
}
"""Names of the gRPC status codes to classes."""


def invalid(field: str, problem: str, reason: str = "INVALID_FIELD") -> InvalidArgument:
    """Return the error for one wrong argument of a call."""
    return InvalidArgument(f"{field}: {problem}", reason=reason, violations=(FieldViolation(field, problem),))
