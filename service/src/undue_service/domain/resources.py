"""Registered models and data sets, and uploads."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .errors import FailedPrecondition, Reason
from .etags import etag
from .jobs import Failure, Job, JobState
from .names import Collection
from .reports import DatasetReport, ModelReport
from .specs import DataSource, ModelSpec


class ResourceState(StrEnum):
    """Whether a model or a data set can be used."""

    VALIDATING = "VALIDATING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Registration:
    """One version of a model or a data set. Its state is that of the job that validates it, and stands nowhere else."""

    tenant: str
    collection: Collection
    id: str
    version: int
    spec: ModelSpec | DataSource
    validation: Job
    create_time: datetime

    @property
    def name(self) -> str:
        """`models/{id}/versions/{n}` or `datasets/{id}/versions/{n}`."""
        return f"{self.collection}/{self.id}/versions/{self.version}"

    @property
    def etag(self) -> str:
        """Changes whenever the version does: when its validation ends."""
        return etag(self.name, self.validation.id, self.state.value)

    @property
    def state(self) -> ResourceState:
        """Whether it can be used."""
        if not self.validation.state.ended:
            return ResourceState.VALIDATING
        return ResourceState.READY if self.validation.state is JobState.SUCCEEDED else ResourceState.FAILED

    @property
    def failure(self) -> Failure | None:
        """Why it cannot be used."""
        if self.validation.state is JobState.CANCELLED:
            return Failure("CANCELLED", Reason.JOB_CANCELLED, "its validation was cancelled; register it again")
        return self.validation.failure

    def ready(self) -> "Registration":
        """Return itself.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
        """
        if self.state is ResourceState.READY:
            return self
        why = f": {self.failure.message}" if self.failure else ""
        text = f"{self.name} is {self.state}{why}"
        raise FailedPrecondition(Reason.RESOURCE_NOT_READY, text, metadata={"resource": self.name, "state": self.state})

    @property
    def content_digest(self) -> str:
        """sha256 of a model's file, or of a data set's content as validation found it."""
        if isinstance(self.spec, ModelSpec):
            return self.spec.digest
        report = self.validation.report
        return report.digest if isinstance(report, DatasetReport) else ""

    @property
    def report(self) -> ModelReport | DatasetReport | None:
        """What validation found."""
        report = self.validation.report
        return report if isinstance(report, ModelReport | DatasetReport) else None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way in."""

    tenant: str
    id: str
    size: int
    sha256: str
    create_time: datetime
    finished: bool = False

    @property
    def name(self) -> str:
        """`uploads/{id}`."""
        return f"uploads/{self.id}"


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A request that may be repeated (AIP-155)."""

    id: str
    fingerprint: str
    """sha256 of the request, so that another request with the same id is noticed."""
