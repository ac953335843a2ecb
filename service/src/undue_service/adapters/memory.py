"""The stores in memory: for tests and for a service that keeps nothing. They pass the same contract suites."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from undue_service.application.ports import Page, StaleLeaseError
from undue_service.domain.errors import AlreadyExists, NotFound, Reason
from undue_service.domain.jobs import Job, JobState, Lease
from undue_service.domain.names import Collection
from undue_service.domain.resources import Registration, RequestKey, Upload
from undue_service.domain.specs import FileFormat, LocatedFile

T = TypeVar("T")


@dataclass
class _Row:
    job: Job
    token: int = 0
    until: datetime | None = None


class _Requests:
    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[str, object]] = {}

    def remembered(self, tenant: str, request: RequestKey | None) -> object | None:
        if request is None or (tenant, request.id) not in self._seen:
            return None
        fingerprint, resource = self._seen[tenant, request.id]
        if fingerprint != request.fingerprint:
            text = f"request_id {request.id} was used for another request: make a new UUID for each request"
            raise AlreadyExists(Reason.REQUEST_ID_REUSED, text)
        return resource

    def remember(self, tenant: str, request: RequestKey | None, resource: object) -> None:
        if request is not None:
            self._seen[tenant, request.id] = (request.fingerprint, resource)


class MemoryJobStore:
    """JobStore in memory."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.requests = _Requests()
        self._rows: dict[tuple[str, str], _Row] = {}

    def add(self, tenant: str, make: Callable[[], Job], request: RequestKey | None) -> Job:
        """See JobStore."""
        with self.lock:
            known = self.requests.remembered(tenant, request)
            if known is not None:
                return self.get(tenant, str(known))
            job = make()
            self._rows[tenant, job.id] = _Row(job)
            self.requests.remember(tenant, request, job.id)
            return job

    def get(self, tenant: str, job_id: str) -> Job:
        """See JobStore."""
        return self._row(tenant, job_id).job

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Job]:
        """See JobStore."""
        with self.lock:
            mine = [row.job for (owner, _), row in self._rows.items() if owner == tenant]
        return _page(mine, limit, before)

    def lease(self, now: datetime, until: datetime) -> Lease | None:
        """See JobStore."""
        with self.lock:
            for row in self._rows.values():
                overdue = row.job.state is JobState.RUNNING and (row.until is None or row.until < now)
                if row.job.state is JobState.QUEUED or overdue:
                    row.job, row.token, row.until = row.job.start(now), row.token + 1, until
                    return Lease(row.job, row.token)
        return None

    def update(
        self,
        tenant: str,
        job_id: str,
        change: Callable[[Job], Job],
        *,
        token: int | None = None,
        until: datetime | None = None,
    ) -> Job:
        """See JobStore."""
        with self.lock:
            row = self._row(tenant, job_id)
            if token is not None and (row.token != token or row.job.state.ended):
                raise StaleLeaseError(row.job.name)
            row.job = change(row.job)
            row.until = until or row.until
            return row.job

    def _row(self, tenant: str, job_id: str) -> _Row:
        with self.lock:
            if (tenant, job_id) not in self._rows:
                raise NotFound(
                    Reason.RESOURCE_NOT_FOUND, f"there is no jobs/{job_id}", metadata={"resource": f"jobs/{job_id}"}
                )
            return self._rows[tenant, job_id]


class MemoryRegistry:
    """Registry in memory, beside the jobs that validate what it holds."""

    def __init__(self, jobs: MemoryJobStore) -> None:
        self._jobs = jobs
        self._versions: list[Registration] = []

    def add(
        self,
        registration: Callable[[int], Registration],
        tenant: str,
        collection: Collection,
        resource_id: str,
        request: RequestKey | None,
    ) -> Registration:
        """See Registry."""
        with self._jobs.lock:
            known = self._jobs.requests.remembered(tenant, request)
            if isinstance(known, Registration):
                return self._current(known)
            new = registration(
                1 + max((found.version for found in self._of(tenant, collection, resource_id)), default=0)
            )
            self._jobs.add(tenant, lambda: new.validation, None)
            self._versions.append(new)
            self._jobs.requests.remember(tenant, request, new)
            return new

    def get(self, tenant: str, collection: Collection, resource_id: str, version: int | None) -> Registration:
        """See Registry."""
        with self._jobs.lock:
            found = [one for one in self._of(tenant, collection, resource_id) if version in (None, one.version)]
            if not found:
                name = f"{collection}/{resource_id}" + (f"/versions/{version}" if version is not None else "")
                raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
            return self._current(found[-1])

    def list(
        self, tenant: str, collection: Collection, resource_id: str | None, limit: int, before: int | None
    ) -> Page[Registration]:
        """See Registry."""
        with self._jobs.lock:
            return _page([self._current(one) for one in self._of(tenant, collection, resource_id)], limit, before)

    def _of(self, tenant: str, collection: Collection, resource_id: str | None) -> tuple[Registration, ...]:
        return tuple(
            one
            for one in self._versions
            if (one.tenant, one.collection) == (tenant, collection) and resource_id in (None, one.id)
        )

    def _current(self, one: Registration) -> Registration:
        return replace(one, validation=self._jobs.get(one.tenant, one.validation.id))


class MemoryUploadStore:
    """UploadStore in memory."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._requests = _Requests()
        self._uploads: dict[tuple[str, str], Upload] = {}

    def add(self, upload: Upload, request: RequestKey | None) -> Upload:
        """See UploadStore."""
        with self._lock:
            known = self._requests.remembered(upload.tenant, request)
            if known is not None:
                return self.get(upload.tenant, str(known))
            self._uploads[upload.tenant, upload.id] = upload
            self._requests.remember(upload.tenant, request, upload.id)
            return upload

    def get(self, tenant: str, upload_id: str) -> Upload:
        """See UploadStore."""
        with self._lock:
            if (tenant, upload_id) not in self._uploads:
                name = f"uploads/{upload_id}"
                raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
            return self._uploads[tenant, upload_id]

    def finish(self, tenant: str, upload_id: str) -> Upload:
        """See UploadStore."""
        with self._lock:
            self._uploads[tenant, upload_id] = replace(self.get(tenant, upload_id), finished=True)
            return self._uploads[tenant, upload_id]


class MemoryLocator:
    """SourceLocator over files that exist only here."""

    def __init__(self, files: Mapping[str, tuple[LocatedFile, ...]] | None = None) -> None:
        self._files = dict(files or {})

    def locate(self, uri: str, file_format: FileFormat) -> tuple[LocatedFile, ...]:  # noqa: ARG002  the port's signature
        """See SourceLocator."""
        if uri not in self._files:
            raise NotFound(Reason.URI_NOT_FOUND, f"{uri!r} names no file that is there")
        return self._files[uri]


class NoMetrics:
    """Metrics that nobody reads."""

    def call_started(self, method: str, kind: str) -> None:
        """See Metrics."""

    def call_handled(self, method: str, kind: str, code: str, seconds: float) -> None:
        """See Metrics."""

    def job_submitted(self, kind: str) -> None:
        """See Metrics."""

    def job_finished(self, job: Job) -> None:
        """See Metrics."""

    def runner_lost(self, reason: str) -> None:
        """See Metrics."""


def _page(items: Sequence[T], limit: int, before: int | None) -> Page[T]:
    """Page through a list that grows at its end, newest first; positions are 1-based."""
    end = len(items) if before is None else before - 1
    start = max(0, end - limit)
    return Page(tuple(reversed(items[start:end])), start + 1 if start > 0 else None)
