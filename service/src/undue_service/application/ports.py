"""What the use cases need from outside. One contract suite tests every implementation of a port."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from undue_service.domain.jobs import Job, Lease, Progress
from undue_service.domain.names import Collection
from undue_service.domain.resources import Registration, RequestKey, Upload
from undue_service.domain.results import Counterfactual, Explanation, Instances, ScoredExample
from undue_service.domain.specs import FileFormat, LocatedFile, TaskResult
from undue_service.domain.tasks import Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing, newest first."""

    items: tuple[T, ...]
    next_before: int | None
    """Where the next page starts; None on the last page."""


class JobStore(Protocol):
    """Jobs, with leases. Every method is one transaction."""

    def add(self, tenant: str, make: Callable[[], Job], request: RequestKey | None) -> Job:
        """Store a new job, as `make()` makes it, and return it; or the one that the same request made before.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED.
        """

    def get(self, tenant: str, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Job]:
        """Return the newest jobs, or those before a position that an earlier page gave."""

    def lease(self, now: datetime, until: datetime) -> Lease | None:
        """Start the oldest queued job, or one whose lease ran out, and return it with a new fencing token."""

    def update(
        self,
        tenant: str,
        job_id: str,
        change: Callable[[Job], Job],
        *,
        token: int | None = None,
        until: datetime | None = None,
    ) -> Job:
        """Apply a change of the state machine, and extend the lease if `until` is given.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
            StaleLeaseError: `token` is not the newest, or the job has ended or was deleted meanwhile.
        """

    def delete(self, tenant: str, job_id: str, check: Callable[[Job], None]) -> Job:
        """Forget a job, unless `check` raises, and return it as it was.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """


class StaleLeaseError(Exception):
    """Somebody else has the job now, or it has ended: what this holder computed must not be written."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What is gone."""

    registrations: tuple[Registration, ...]
    cancelled: tuple[Job, ...]
    """Jobs that needed it and had not ended, as cancelled now."""


class Registry(Protocol):
    """Registered models and data sets. Every method is one transaction."""

    def add(
        self,
        registration: Callable[[int], Registration],
        tenant: str,
        collection: Collection,
        resource_id: str,
        request: RequestKey | None,
    ) -> Registration:
        """Store the next version, as `registration(version)` makes it, and its validation job; or return the earlier.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED.
        """

    def get(self, tenant: str, collection: Collection, resource_id: str, version: int | None) -> Registration:
        """Return a version, or the newest.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def list(
        self, tenant: str, collection: Collection, resource_id: str | None, limit: int, before: int | None
    ) -> Page[Registration]:
        """Return the newest versions, or those before a position that an earlier page gave."""

    def delete(
        self,
        tenant: str,
        collection: Collection,
        resource_id: str,
        version: int | None,
        check: Callable[[tuple[Registration, ...], tuple[str, ...]], None],
        now: datetime,
    ) -> Deleted:
        """Forget a version, or all, with their validation jobs; unless `check(versions, who names them)` raises.

        Jobs that name one and have not ended are cancelled. A version's number is never given again.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """


class UploadStore(Protocol):
    """What was declared of uploads. Every method is one transaction."""

    def add(self, upload: Upload, request: RequestKey | None) -> Upload:
        """Store a new upload and return it, or the one that the same request made before.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED.
        """

    def get(self, tenant: str, upload_id: str) -> Upload:
        """Return an upload.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def finish(self, tenant: str, upload_id: str) -> Upload:
        """Mark an upload as finished."""


@dataclass(frozen=True, slots=True)
class Held:
    """A file that a store holds."""

    tenant: str
    key: str
    """Its digest, or the upload that it belongs to."""
    modified: datetime


class ArtifactStore(Protocol):
    """Files named by their sha256, a name space for each tenant."""

    def contains(self, tenant: str, digest: str) -> bool:
        """Return whether the artifact is there."""

    def path(self, tenant: str, digest: str) -> Path:
        """Return a local path to read the artifact at.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def keep(self, tenant: str, source: Path, digest: str | None = None) -> str:
        """Move a file in and return its sha256, which must be `digest` where that is given.

        Raises:
            InvalidArgument: DIGEST_MISMATCH.
        """

    def renew(self, tenant: str, digest: str) -> int | None:
        """Let an artifact count as new, and return its size; None where it is gone.

        Whoever is about to write a reference to an artifact renews it first: `remove` then spares it until the
        reference can be seen.
        """

    def held(self) -> Iterator[Held]:
        """Yield every artifact of every tenant."""

    def remove(self, tenant: str, digest: str, before: datetime) -> bool:
        """Remove an artifact if it was last kept or renewed before `before`, and return whether it was."""


class Staging(Protocol):
    """Files on their way in."""

    def size(self, tenant: str, key: str) -> int:
        """Return how many bytes have arrived."""

    def append(self, tenant: str, key: str, offset: int, data: bytes) -> int:
        """Write a chunk where the file ends and return the new size.

        Raises:
            InvalidArgument: UPLOAD_OFFSET_MISMATCH.
            ResourceExhausted: STORAGE_FULL.
        """

    def path(self, tenant: str, key: str) -> Path:
        """Return where the bytes are."""

    def discard(self, tenant: str, key: str) -> None:
        """Forget what has arrived."""

    def held(self) -> Iterator[Held]:
        """Yield what has arrived of every upload of every tenant."""

    def scratch(self, key: str) -> Path:
        """Return a fresh empty folder for a job; one left by an earlier attempt is emptied."""

    def take(self, folder: Path, name: str) -> Path:
        """Copy a file that a runner left in its scratch folder to where the runner cannot reach it.

        Raises:
            Internal: the name is not that of a plain file in the folder.
        """

    def discard_scratch(self, key: str) -> None:
        """Remove a job's folder."""


class Inventory(Protocol):
    """The stores as a whole, over all tenants: what cleaning up needs to know. Every method is one transaction."""

    def referenced(self) -> set[tuple[str, str]]:
        """Return (tenant, digest) of each artifact that a version, a job's result or an upload refers to."""

    def uploads(self) -> tuple[Upload, ...]:
        """Return every upload."""

    def drop_upload(self, tenant: str, upload_id: str) -> None:
        """Forget an upload, and the request that made it: repeated, that makes a new one."""

    def drop_requests(self, before: datetime) -> int:
        """Forget the requests made before a time, and return how many there were."""


class SourceLocator(Protocol):
    """Finds the files of data sets that are read where they lie."""

    def locate(self, uri: str, file_format: FileFormat) -> tuple[LocatedFile, ...]:
        """Return the files that a URI means, in the order of their names.

        The files of IDX are called after the columns that they are; images by their paths below the folder.

        Raises:
            InvalidArgument: URI_REFUSED, whether or not there is something where nobody may look; too many files.
            NotFound: URI_NOT_FOUND.
        """


class ResultReader(Protocol):
    """Result files that runners leave."""

    def rows(self, path: Path) -> Instances:
        """Return the rows that a RowsTask read.

        Raises:
            ValueError: the file is not one of such rows.
        """

    def explanations(self, path: Path, start: int, count: int) -> tuple[tuple[Explanation, ...], int | None]:
        """Return at most `count` explanations from position `start` on, and where the next ones start."""

    def self_influences(self, path: Path, start: int, count: int) -> tuple[tuple[ScoredExample, ...], int | None]:
        """Return at most `count` ranked rows from position `start` on, and where the next ones start."""

    def measured(self, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the test rows that counterfactuals are about, and their costs before anything was removed."""

    def counterfactuals(self, path: Path, start: int, count: int) -> tuple[tuple[Counterfactual, ...], int | None]:
        """Return at most `count` counterfactuals from position `start` on, and where the next ones start."""

    def counterfactual_blocks(self, path: Path) -> Iterator[tuple[Counterfactual, ...]]:
        """Yield all counterfactuals, some at a time."""

    def score_blocks(self, path: Path) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield (first row, float32 block) over the score matrix."""


@dataclass(frozen=True, slots=True)
class Work:
    """A task for a runner."""

    tenant: str
    id: str
    task: Task
    artifacts: Mapping[str, Path]
    """Every artifact that the task may read."""
    scratch: Path
    """Where it leaves what it produces."""
    lane: Literal["batch", "serve"] = "batch"


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """One runner process."""

    pid: int
    device: str
    lane: str
    state: Literal["starting", "idle", "busy"]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What the pool is made of."""

    devices: tuple[str, ...]
    runners: tuple[RunnerStatus, ...]
    libraries: Mapping[str, str]
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    """Device to the most memory that one runner has held there."""


class RunnerLostError(Exception):
    """The runner died, hung up or spoke nonsense. The work can be given to another."""

    def __init__(self, message: str, reason: Literal["died", "nonsense", "silent", "start"]) -> None:
        super().__init__(message)
        self.reason = reason


class WorkerPool(Protocol):
    """Processes that run tasks, one at a time on each slot and lane."""

    async def run(self, work: Work, on_progress: Callable[[Progress], None]) -> TaskResult:
        """Run one task to its end. Cancelling the call kills the runner.

        Raises:
            Error: whatever typed error the task ended with.
            RunnerLostError: the process was lost.
        """

    def status(self) -> PoolStatus:
        """Return what the pool is made of."""

    async def close(self) -> None:
        """End every runner."""


class Metrics(Protocol):
    """What is counted and timed. Its methods may be called from any thread."""

    def call_started(self, method: str, kind: str) -> None:
        """Count a call: full name of its method, and unary, client_stream or server_stream."""

    def call_handled(self, method: str, kind: str, code: str, seconds: float) -> None:
        """Count and time a call that has ended."""

    def job_submitted(self, kind: str) -> None:
        """Count a job."""

    def job_finished(self, job: Job) -> None:
        """Count and time a job that has ended."""

    def runner_lost(self, reason: str) -> None:
        """Count a runner that will be replaced."""


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
