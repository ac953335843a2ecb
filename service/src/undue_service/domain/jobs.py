"""Jobs and their state machine.

    QUEUED ──start──▶ RUNNING ──succeed──▶ SUCCEEDED
      │  ▲               │ │ └───fail────▶ FAILED
      │  └────requeue────┘ │      (or put back)
      └──────cancel────────┴────────────▶ CANCELLED

A job is changed only through the methods below, each of which refuses what the machine does not allow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from .errors import ERRORS_BY_CODE, Error, FailedPrecondition, Internal, Reason
from .etags import etag
from .reports import DatasetReport, IndexReport, InfluenceReport, ModelReport, PerturbationReport
from .specs import JobSpec

Report = ModelReport | DatasetReport | InfluenceReport | PerturbationReport | IndexReport


class JobState(StrEnum):
    """How far a job has come."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come."""

    stage: str = ""
    done: int = 0
    total: int = 0
    """0 where it is not known."""
    rate: float = 0.0
    """How much of the stage is done in a second; 0 where it is not known yet."""

    @property
    def seconds_left(self) -> float | None:
        """How long the stage will take from here; None where it is not known."""
        if not (self.rate > 0 and self.total > 0):
            return None
        return max(0, self.total - self.done) / self.rate


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that is kept."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: Error) -> "Failure":
        """Return what to keep of an error."""
        return cls(error.code, error.reason.value, error.message, dict(error.metadata))

    def error(self) -> Error:
        """Return the error again."""
        known = self.reason in Reason.__members__ and self.code in ERRORS_BY_CODE
        cls = ERRORS_BY_CODE[self.code] if known else Internal
        return cls(Reason(self.reason) if known else Reason.INTERNAL, self.message, metadata=self.metadata)


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work."""

    tenant: str
    id: str
    spec: JobSpec
    create_time: datetime
    timeout_seconds: float = 0.0
    """From the first start on; 0 means without limit."""
    state: JobState = JobState.QUEUED
    progress: Progress = Progress()
    attempt: int = 0
    """How often it was started."""
    lost_runners: int = 0
    """How many of those attempts cost a runner; a restart of the service does not count here."""
    interruptions: int = 0
    """How many of those attempts neither ended nor cost a runner: the service died, or its lease ran out."""
    start_time: datetime | None = None
    """When it was first started."""
    end_time: datetime | None = None
    report: Report | None = None
    results: Mapping[str, str] = field(default_factory=dict)
    """Role to digest of the artifacts that hold the result."""
    failure: Failure | None = None

    @property
    def name(self) -> str:
        """`jobs/{id}`."""
        return f"jobs/{self.id}"

    @property
    def etag(self) -> str:
        """Changes whenever the job does."""
        return etag(self.name, self.state.value, self.progress, self.attempt, self.lost_runners)

    def start(self, now: datetime) -> "Job":
        """Return the job as taken by a scheduler; a running job is started again when its lease ran out."""
        self._require("start", JobState.QUEUED, JobState.RUNNING)
        return replace(
            self,
            state=JobState.RUNNING,
            attempt=self.attempt + 1,
            interruptions=self.interruptions + (self.state is JobState.RUNNING),
            start_time=self.start_time or now,
            progress=Progress(),
        )

    def advance(self, progress: Progress) -> "Job":
        """Return the job with newer progress."""
        self._require("advance", JobState.RUNNING)
        return replace(self, progress=progress)

    def requeue(self) -> "Job":
        """Return the job as waiting again, after its runner was lost."""
        self._require("requeue", JobState.RUNNING)
        return replace(self, state=JobState.QUEUED, progress=Progress(), lost_runners=self.lost_runners + 1)

    def put_back(self) -> "Job":
        """Return the job as waiting again, for no fault of its own: the service was told to stop."""
        self._require("put back", JobState.RUNNING)
        return replace(self, state=JobState.QUEUED, progress=Progress())

    def succeed(self, now: datetime, report: Report, results: Mapping[str, str]) -> "Job":
        """Return the job as ended well."""
        self._require("succeed", JobState.RUNNING)
        return replace(self, state=JobState.SUCCEEDED, end_time=now, report=report, results=dict(results))

    def fail(self, now: datetime, error: Error) -> "Job":
        """Return the job as ended badly."""
        self._require("fail", JobState.RUNNING)
        return replace(self, state=JobState.FAILED, end_time=now, failure=Failure.of(error))

    def cancel(self, now: datetime) -> "Job":
        """Return the job as cancelled; one that has ended stays as it is."""
        return self if self.state.ended else replace(self, state=JobState.CANCELLED, end_time=now)

    def _require(self, action: str, *states: JobState) -> None:
        if self.state not in states:
            raise FailedPrecondition(Reason.INTERNAL, f"{self.name} is {self.state} and cannot {action}")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job. A write with a token that is no longer the newest is refused."""

    job: Job
    token: int
    """Fencing token: grows with every lease of the same job."""
