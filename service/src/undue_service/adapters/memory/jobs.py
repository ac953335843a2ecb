"""JobStore in memory."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from undue_service.application.ports import Page, StaleLeaseError
from undue_service.domain.errors import AlreadyExists, NotFound, Reason
from undue_service.domain.jobs import Job, JobState, Lease
from undue_service.domain.resources import RequestKey
from undue_service.domain.specs import named_resources

from .paging import page


@dataclass
class _Row:
    seq: int
    job: Job
    token: int = 0
    until: datetime | None = None


class Requests:
    """Which requests were made, and what each made."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[str, object, datetime]] = {}

    def remembered(self, tenant: str, request: RequestKey | None) -> object | None:
        """Return what the same request made before.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED.
        """
        if request is None or (tenant, request.id) not in self._seen:
            return None
        fingerprint, resource, _ = self._seen[tenant, request.id]
        if fingerprint != request.fingerprint:
            text = f"request_id {request.id} was used for another request: make a new UUID for each request"
            raise AlreadyExists(Reason.REQUEST_ID_REUSED, text)
        return resource

    def remember(self, tenant: str, request: RequestKey | None, resource: object) -> None:
        """Note what a request made."""
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
        self.requests = Requests()
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

    def state(self, tenant: str, job_id: str) -> JobState:
        """See JobStore."""
        return self.get(tenant, job_id).state

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Job]:
        """See JobStore."""
        with self.lock:
            mine = [(row.seq, row.job) for (owner, _), row in self._rows.items() if owner == tenant]
        return page(mine, limit, before)

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
