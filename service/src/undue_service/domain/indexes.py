"""Indexes of training rows, which live predictions are explained from."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .errors import FailedPrecondition, Reason
from .etags import etag
from .index_jobs import IndexExtend, IndexSpec
from .jobs import Failure, Job, JobState
from .reports import IndexReport


class IndexState(StrEnum):
    """Whether an index can be used."""

    BUILDING = "BUILDING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Index:
    """An index. What it holds is what the newest of its jobs that succeeded left, and stands nowhere else.

    Its rows are numbered through over its data sets. A number is never given again: erased rows keep theirs.
    """

    tenant: str
    id: str
    spec: IndexSpec
    create_time: datetime
    jobs: tuple[Job, ...]
    """Those that build and change it, oldest first; at least the one that builds it, and one at a time unfinished."""
    erased: int = 0
    """How many rows were erased."""
    lost: tuple[str, ...] = ()
    """What it is made of that was deleted by force: without it nothing can be explained or changed any more."""

    @property
    def name(self) -> str:
        """`indexes/{id}`."""
        return f"indexes/{self.id}"

    @property
    def current(self) -> Job | None:
        """The job whose results are its files; None while it has none."""
        return next((job for job in reversed(self.jobs) if job.state is JobState.SUCCEEDED), None)

    @property
    def unfinished(self) -> Job | None:
        """The job that builds or changes it now."""
        return next((job for job in self.jobs if not job.state.ended), None)

    @property
    def state(self) -> IndexState:
        """Whether it can be used."""
        if self.lost:
            return IndexState.FAILED
        if self.current is not None:
            return IndexState.READY
        return IndexState.FAILED if self.jobs[0].state.ended else IndexState.BUILDING

    @property
    def failure(self) -> Failure | None:
        """Why it cannot be used."""
        if self.lost:
            text = f"{self.lost[0]}, which it is made of, was deleted; build another index"
            return Failure("NOT_FOUND", Reason.RESOURCE_NOT_FOUND, text)
        if self.jobs[0].state is JobState.CANCELLED:
            return Failure("CANCELLED", Reason.JOB_CANCELLED, "its building was cancelled; build it again")
        return self.jobs[0].failure

    @property
    def report(self) -> IndexReport | None:
        """What its newest job found."""
        report = self.current.report if self.current is not None else None
        return report if isinstance(report, IndexReport) else None

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets whose rows it holds, in the order of its row numbers."""
        done = (job.spec for job in self.jobs if job.state is JobState.SUCCEEDED)
        return (self.spec.train, *(spec.dataset for spec in done if isinstance(spec, IndexExtend)))

    @property
    def revision(self) -> str:
        """Changes whenever an answer could: with its files and with the rows that were erased."""
        return f"{self.current.id if self.current is not None else ''}-{self.erased}"

    @property
    def etag(self) -> str:
        """Changes whenever the index does."""
        return etag(self.name, self.jobs[-1].id, self.jobs[-1].state.value, self.erased, self.lost)

    def ready(self) -> "Index":
        """Return itself.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
        """
        if self.state is IndexState.READY:
            return self
        why = f": {self.failure.message}" if self.failure else ""
        text = f"{self.name} is {self.state}{why}"
        raise FailedPrecondition(Reason.RESOURCE_NOT_READY, text, metadata={"resource": self.name, "state": self.state})

    def idle(self) -> "Index":
        """Return itself.

        Raises:
            FailedPrecondition: INDEX_BUSY.
        """
        if self.unfinished is None:
            return self
        text = f"{self.unfinished.name} builds or changes {self.name} already: wait until it has ended, or cancel it"
        raise FailedPrecondition(Reason.INDEX_BUSY, text, metadata={"resource": self.name, "job": self.unfinished.name})


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that means an index."""

    tenant: str
    id: str
    index: str
    """`indexes/{id}`."""
    update_time: datetime

    @property
    def name(self) -> str:
        """`aliases/{id}`."""
        return f"aliases/{self.id}"
