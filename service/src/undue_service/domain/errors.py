"""Every failure that `undue` reports, with a reason that never changes its name.

Error:
    ├── InvalidArgument      the request is wrong; sending it again cannot help
    ├── NotFound             a named resource does not exist for this tenant
    ├── AlreadyExists        the resource, or the request id, is taken
    ├── FailedPrecondition   the request is right but the system is not in the state for it
    ├── ResourceExhausted    a limit was met; the message names the limit
    ├── Cancelled            somebody cancelled it
    ├── DeadlineExceeded     its time ran out
    ├── Unavailable          try again; nothing was lost
    ├── Unimplemented        this installation cannot do it
    └── Internal             our fault

Reasons are the values of `undue.v1.ErrorReason`; a test holds the two lists together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Stable, machine-readable causes (AIP-193). What each means stands in errors.proto."""

    # requests
    INVALID_FIELD = "INVALID_FIELD"
    INVALID_NAME = "INVALID_NAME"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105  a page, not a secret
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    RESOURCE_NOT_READY = "RESOURCE_NOT_READY"
    METHOD_UNKNOWN = "METHOD_UNKNOWN"
    RESOURCE_IN_USE = "RESOURCE_IN_USE"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    REQUEST_MALFORMED = "REQUEST_MALFORMED"
    RPC_UNKNOWN = "RPC_UNKNOWN"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    # uploads
    UPLOAD_TOO_LARGE = "UPLOAD_TOO_LARGE"
    UPLOAD_INCOMPLETE = "UPLOAD_INCOMPLETE"
    UPLOAD_OFFSET_MISMATCH = "UPLOAD_OFFSET_MISMATCH"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    # models
    MODEL_MALFORMED = "MODEL_MALFORMED"
    MODEL_UNSAFE = "MODEL_UNSAFE"
    MODEL_UNSUPPORTED = "MODEL_UNSUPPORTED"
    UNSUPPORTED_OPERATORS = "UNSUPPORTED_OPERATORS"
    STATIC_BATCH = "STATIC_BATCH"
    TORCH_VERSION = "TORCH_VERSION"
    OUTPUT_AMBIGUOUS = "OUTPUT_AMBIGUOUS"
    PARAMETERS_NOT_FOUND = "PARAMETERS_NOT_FOUND"
    PARITY_FAILED = "PARITY_FAILED"
    # data sets
    DATASET_MALFORMED = "DATASET_MALFORMED"
    DATASET_EMPTY = "DATASET_EMPTY"
    COLUMN_NOT_FOUND = "COLUMN_NOT_FOUND"
    ROWS_MISMATCH = "ROWS_MISMATCH"
    NON_FINITE_DATA = "NON_FINITE_DATA"
    DUPLICATE_ID = "DUPLICATE_ID"
    URI_REFUSED = "URI_REFUSED"
    URI_NOT_FOUND = "URI_NOT_FOUND"
    DATASET_CHANGED = "DATASET_CHANGED"
    DATASET_DEGENERATE = "DATASET_DEGENERATE"
    # a model against its data
    INPUT_MISMATCH = "INPUT_MISMATCH"
    TARGET_MISMATCH = "TARGET_MISMATCH"
    TARGETS_MISSING = "TARGETS_MISSING"
    ROW_OUT_OF_RANGE = "ROW_OUT_OF_RANGE"
    # the engine
    OBJECTIVE_MISMATCH = "OBJECTIVE_MISMATCH"
    HESSIAN_NOT_POSITIVE_DEFINITE = "HESSIAN_NOT_POSITIVE_DEFINITE"
    HESSIAN_SINGULAR = "HESSIAN_SINGULAR"
    SOLVER_NOT_CONVERGED = "SOLVER_NOT_CONVERGED"
    TOO_MANY_PARAMETERS = "TOO_MANY_PARAMETERS"
    NON_FINITE_RESULT = "NON_FINITE_RESULT"
    LEVERAGE_UNAVAILABLE = "LEVERAGE_UNAVAILABLE"
    RETRAIN_UNSUPPORTED = "RETRAIN_UNSUPPORTED"
    RECIPE_MISSING = "RECIPE_MISSING"
    CHECKPOINTS_MISSING = "CHECKPOINTS_MISSING"
    WEIGHTS_MISMATCH = "WEIGHTS_MISMATCH"
    ARCHITECTURE_UNKNOWN = "ARCHITECTURE_UNKNOWN"
    INPUT_NOT_DIFFERENTIABLE = "INPUT_NOT_DIFFERENTIABLE"
    # jobs and runners
    JOB_CANCELLED = "JOB_CANCELLED"
    JOB_DEADLINE = "JOB_DEADLINE"
    JOB_NOT_FINISHED = "JOB_NOT_FINISHED"
    JOB_FAILED = "JOB_FAILED"
    RESULT_KIND_MISMATCH = "RESULT_KIND_MISMATCH"
    RUNNER_LOST = "RUNNER_LOST"
    RUNNER_UNAVAILABLE = "RUNNER_UNAVAILABLE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    # indexes
    INDEX_STALE = "INDEX_STALE"
    INDEX_DAMAGED = "INDEX_DAMAGED"
    INDEX_BUSY = "INDEX_BUSY"
    # the service
    DATA_DIR_LOCKED = "DATA_DIR_LOCKED"
    ADDRESS_UNAVAILABLE = "ADDRESS_UNAVAILABLE"
    SETTINGS_INVALID = "SETTINGS_INVALID"
    STORAGE_FULL = "STORAGE_FULL"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong, by its path in the request message."""

    field: str
    description: str
    reason: Reason = Reason.INVALID_FIELD


class Error(Exception):
    """A failure to report. `message` says what is wrong and what to do about it."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"


class InvalidArgument(Error):
    """The request is wrong; sending it again cannot help."""

    code = "INVALID_ARGUMENT"

    @classmethod
    def at(cls, field: str, description: str, reason: Reason = Reason.INVALID_FIELD) -> "InvalidArgument":
        """Return the error for one wrong field, by its path in the request."""
        return cls(reason, f"{field}: {description}", violations=(FieldViolation(field, description, reason),))


class NotFound(Error):
    """A named resource does not exist for this tenant."""

    code = "NOT_FOUND"


class AlreadyExists(Error):
    """The resource, or the request id, is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(Error):
    """The request is right but the system is not in the state for it."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(Error):
    """A limit was met; the message names the limit."""

    code = "RESOURCE_EXHAUSTED"


class Cancelled(Error):
    """Somebody cancelled it."""

    code = "CANCELLED"


class DeadlineExceeded(Error):
    """Its time ran out."""

    code = "DEADLINE_EXCEEDED"


class Unavailable(Error):
    """Try again; nothing was lost."""

    code = "UNAVAILABLE"


class Unimplemented(Error):
    """This installation cannot do it."""

    code = "UNIMPLEMENTED"


class Internal(Error):
    """Our fault."""

    code = "INTERNAL"


ERRORS_BY_CODE: Mapping[str, type[Error]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        Cancelled,
        DeadlineExceeded,
        Unavailable,
        Unimplemented,
        Internal,
    )
}
