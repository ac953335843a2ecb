"""Ports: what is kept of jobs, versions and uploads. Every method is one transaction."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from undue_service.domain.jobs import Job, JobState, Lease
from undue_service.domain.names import Collection
from undue_service.domain.resources import Registration, RequestKey, Upload
from undue_service.domain.specs import LocatedFile

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

    def state(self, tenant: str, job_id: str) -> JobState:
        """Return how far a job has come, without reading the job, which may name very many rows.

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
    """Registered models and data sets. Every method is one transaction.

    A version of a source that is `listed_apart` is given without its files, which `files` returns.
    """

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

    def files(self, tenant: str, resource_id: str, version: int) -> tuple[LocatedFile, ...]:
        """Return the files of a data set whose source is `listed_apart`; none of another.

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


class Inventory(Protocol):
    """The stores as a whole, over all tenants: what cleaning up needs to know. Every method is one transaction."""

    def referenced(self) -> set[tuple[str, str]]:
        """Return (tenant, digest) of each artifact that a version, a job's result or an upload refers to.

        Of the jobs of an index, only the newest that succeeded counts.
        """

    def unfinished_jobs(self) -> set[str]:
        """Return the ids of the jobs that have not ended."""

    def uploads(self) -> tuple[Upload, ...]:
        """Return every upload."""

    def drop_upload(self, tenant: str, upload_id: str) -> None:
        """Forget an upload, and the request that made it: repeated, that makes a new one."""

    def drop_requests(self, before: datetime) -> int:
        """Forget the requests made before a time, and return how many there were."""
