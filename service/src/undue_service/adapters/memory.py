"""The stores in memory: for tests and for a service that keeps nothing. They pass the same contract suites."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import TypeVar

from undue_service.application.ports import Deleted, Page, StaleLeaseError
from undue_service.domain.errors import AlreadyExists, NotFound, Reason
from undue_service.domain.jobs import Job, JobState, Lease
from undue_service.domain.names import Collection
from undue_service.domain.resources import Registration, RequestKey, Upload
from undue_service.domain.specs import FileFormat, LocatedFile, named_resources

T = TypeVar("T")


@dataclass
class _Row:
    seq: int
    job: Job
    token: int = 0
    until: datetime | None = None


class _Requests:
    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[str, object, datetime]] = {}

    def remembered(self, tenant: str, request: RequestKey | None) -> object | None:
        if request is None or (tenant, request.id) not in self._seen:
            return None
        fingerprint, resource, _ = self._seen[tenant, request.id]
        if fingerprint != request.fingerprint:
            text = f"request_id {request.id} was used for another request: make a new UUID for each request"
            raise AlreadyExists(Reason.REQUEST_ID_REUSED, text)
        return resource

    def remember(self, tenant: str, request: RequestKey | None, resource: object) -> None:
        if request is not None:
            self._seen[tenant, request.id] = (request.fingerprint, resource, datetime.now(UTC))

    def drop(self, unwanted: Callable[[str, object, datetime], bool]) -> int:
        """Forget the requests for which `unwanted(tenant, resource, time)` holds, and return how many there were."""
        kept = {key: value for key, value in self._seen.items() if not unwanted(key[0], *value[1:])}
        dropped = len(self._seen) - len(kept)
        self._seen = kept
        return dropped


class MemoryJobStore:
    """JobStore in memory."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.requests = _Requests()
        self._rows: dict[tuple[str, str], _Row] = {}
        self._seq = count(1)

    def add(self, tenant: str, make: Callable[[], Job], request: RequestKey | None) -> Job:
        """See JobStore."""
        with self.lock:
            known = self.requests.remembered(tenant, request)
            if known is not None:
                return self.get(tenant, str(known))
            job = make()
            self._rows[tenant, job.id] = _Row(next(self._seq), job)
            self.requests.remember(tenant, request, job.id)
            return job

    def get(self, tenant: str, job_id: str) -> Job:
        """See JobStore."""
        return self._row(tenant, job_id).job

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Job]:
        """See JobStore."""
        with self.lock:
            mine = [(row.seq, row.job) for (owner, _), row in self._rows.items() if owner == tenant]
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
            if token is not None and (tenant, job_id) not in self._rows:
                raise StaleLeaseError(f"jobs/{job_id}")
            row = self._row(tenant, job_id)
            if token is not None and (row.token != token or row.job.state.ended):
                raise StaleLeaseError(row.job.name)
            row.job = change(row.job)
            row.until = until or row.until
            return row.job

    def delete(self, tenant: str, job_id: str, check: Callable[[Job], None]) -> Job:
        """See JobStore."""
        with self.lock:
            job = self.get(tenant, job_id)
            check(job)
            del self._rows[tenant, job_id]
            return job

    def users_of(self, tenant: str, targets: frozenset[str]) -> tuple[Job, ...]:
        """Return the jobs that name any of the targets."""
        with self.lock:
            mine = [row.job for (owner, _), row in self._rows.items() if owner == tenant]
            return tuple(job for job in mine if targets & set(named_resources(job.spec)))

    def rows(self) -> tuple[_Row, ...]:
        """Return every job of every tenant, for the inventory."""
        return tuple(self._rows.values())

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
        self._versions: dict[int, Registration] = {}
        self._seq = count(1)
        self._newest: dict[tuple[str, Collection, str], int] = {}

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
                if known not in self._versions.values():
                    text = "what this request registered has been deleted: make a new request_id to register it again"
                    raise NotFound(Reason.RESOURCE_NOT_FOUND, text)
                return self._current(known)
            new = registration(1 + self._newest.get((tenant, collection, resource_id), 0))
            self._newest[tenant, collection, resource_id] = new.version
            self._jobs.add(tenant, lambda: new.validation, None)
            self._versions[next(self._seq)] = new
            self._jobs.requests.remember(tenant, request, new)
            return new

    def get(self, tenant: str, collection: Collection, resource_id: str, version: int | None) -> Registration:
        """See Registry."""
        with self._jobs.lock:
            return self._current(self._found(tenant, collection, resource_id, version)[-1][1])

    def list(
        self, tenant: str, collection: Collection, resource_id: str | None, limit: int, before: int | None
    ) -> Page[Registration]:
        """See Registry."""
        with self._jobs.lock:
            mine = self._of(tenant, collection, resource_id)
            return _page([(seq, self._current(one)) for seq, one in mine], limit, before)

    def delete(
        self,
        tenant: str,
        collection: Collection,
        resource_id: str,
        version: int | None,
        check: Callable[[tuple[Registration, ...], tuple[str, ...]], None],
        now: datetime,
    ) -> Deleted:
        """See Registry."""
        with self._jobs.lock:
            rows = self._found(tenant, collection, resource_id, version)
            found = tuple(self._current(one) for _, one in rows)
            targets = frozenset(one.name for one in found)
            jobs = self._jobs.users_of(tenant, targets)
            models = [one.name for one in self._versions.values() if targets & set(named_resources(one.spec))]
            check(found, tuple(sorted([*(job.name for job in jobs), *models])))
            needing = [job for job in jobs if not job.state.ended]
            cancelled = tuple(self._jobs.update(tenant, job.id, lambda job: job.cancel(now)) for job in needing)
            for seq, one in rows:
                self._jobs.delete(tenant, one.validation.id, lambda _: None)
                del self._versions[seq]
            return Deleted(found, cancelled)

    def _found(
        self, tenant: str, collection: Collection, resource_id: str, version: int | None
    ) -> tuple[tuple[int, Registration], ...]:
        found = tuple(row for row in self._of(tenant, collection, resource_id) if version in (None, row[1].version))
        if not found:
            name = f"{collection}/{resource_id}" + (f"/versions/{version}" if version is not None else "")
            raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
        return found

    def versions(self) -> tuple[Registration, ...]:
        """Return every version of every tenant, for the inventory."""
        return tuple(self._versions.values())

    def _of(self, tenant: str, collection: Collection, resource_id: str | None) -> tuple[tuple[int, Registration], ...]:
        return tuple(
            (seq, one)
            for seq, one in self._versions.items()
            if (one.tenant, one.collection) == (tenant, collection) and resource_id in (None, one.id)
        )

    def _current(self, one: Registration) -> Registration:
        return replace(one, validation=self._jobs.get(one.tenant, one.validation.id))


class MemoryUploadStore:
    """UploadStore in memory."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.requests = _Requests()
        self._uploads: dict[tuple[str, str], Upload] = {}

    def add(self, upload: Upload, request: RequestKey | None) -> Upload:
        """See UploadStore."""
        with self._lock:
            known = self.requests.remembered(upload.tenant, request)
            if known is not None:
                return self.get(upload.tenant, str(known))
            self._uploads[upload.tenant, upload.id] = upload
            self.requests.remember(upload.tenant, request, upload.id)
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

    def all(self) -> tuple[Upload, ...]:
        """Return every upload of every tenant, for the inventory."""
        with self._lock:
            return tuple(self._uploads.values())

    def drop(self, tenant: str, upload_id: str) -> None:
        """Forget an upload and its request, for the inventory."""
        with self._lock:
            self._uploads.pop((tenant, upload_id), None)
            self.requests.drop(lambda owner, resource, _: (owner, resource) == (tenant, upload_id))


class MemoryInventory:
    """Inventory over the stores in memory."""

    def __init__(self, jobs: MemoryJobStore, registry: MemoryRegistry, uploads: MemoryUploadStore) -> None:
        self._jobs = jobs
        self._registry = registry
        self._uploads = uploads

    def referenced(self) -> set[tuple[str, str]]:
        """See Inventory."""
        with self._jobs.lock:
            results = {(row.job.tenant, digest) for row in self._jobs.rows() for digest in row.job.results.values()}
            specs = {(one.tenant, digest) for one in self._registry.versions() for digest in one.spec.digests()}
        return results | specs | {(upload.tenant, upload.sha256) for upload in self.uploads()}

    def uploads(self) -> tuple[Upload, ...]:
        """See Inventory."""
        return self._uploads.all()

    def drop_upload(self, tenant: str, upload_id: str) -> None:
        """See Inventory."""
        self._uploads.drop(tenant, upload_id)

    def drop_requests(self, before: datetime) -> int:
        """See Inventory."""
        requests = (self._jobs.requests, self._uploads.requests)
        return sum(one.drop(lambda _tenant, _resource, time: time < before) for one in requests)


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


def _page(items: Sequence[tuple[int, T]], limit: int, before: int | None) -> Page[T]:
    """Page through numbered items in ascending order, newest first."""
    left = [item for item in reversed(items) if before is None or item[0] < before]
    shown = left[:limit]
    return Page(tuple(item for _, item in shown), shown[-1][0] if len(left) > limit else None)
