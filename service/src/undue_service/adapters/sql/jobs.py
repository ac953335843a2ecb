"""JobStore in SQL."""

from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import Connection, Engine, RowMapping, delete, func, insert, or_, select, update

from undue_service.application.ports import Page, StaleLeaseError
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.jobs import Job, JobState, Lease
from undue_service.domain.resources import RequestKey
from undue_service.domain.specs import named_resources
from undue_service.wire.codec import JOB

from .database import page_of, reading, remember, remembered, typed_errors, writing
from .tables import jobs
from .uses import forget_uses, remember_uses


class SqlJobStore:
    """Jobs, with leases."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def add(self, tenant: str, make: Callable[[], Job], request: RequestKey | None) -> Job:
        """See JobStore."""
        with writing(self._engine) as connection:
            known = remembered(connection, tenant, request)
            if known is not None:
                return _load(_row(connection, tenant, known))
            job = make()
            insert_job(connection, job)
            remember(connection, tenant, request, job.id)
        return job

    @typed_errors
    def get(self, tenant: str, job_id: str) -> Job:
        """See JobStore."""
        with reading(self._engine) as connection:
            return _load(_row(connection, tenant, job_id))

    @typed_errors
    def state(self, tenant: str, job_id: str) -> JobState:
        """See JobStore."""
        query = select(jobs.c.state).where(jobs.c.tenant == tenant, jobs.c.id == job_id)
        with reading(self._engine) as connection:
            state = connection.execute(query).scalar()
        if state is None:
            raise _missing(job_id)
        return JobState(state)

    @typed_errors
    def list(self, tenant: str, limit: int, before: int | None) -> Page[Job]:
        """See JobStore."""
        query = select(jobs).where(jobs.c.tenant == tenant).order_by(jobs.c.seq.desc())
        if before is not None:
            query = query.where(jobs.c.seq < before)
        with reading(self._engine) as connection:
            rows, more = page_of(connection, query, limit, lambda row: len(row["body"]))
        return Page(tuple(_load(row) for row in rows), rows[-1]["seq"] if more else None)

    @typed_errors
    def lease(self, now: datetime, until: datetime) -> Lease | None:
        """See JobStore."""
        overdue = (jobs.c.state == JobState.RUNNING) & or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < now)
        query = select(jobs).where(or_(jobs.c.state == JobState.QUEUED, overdue)).order_by(jobs.c.seq).limit(1)
        with writing(self._engine) as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).mappings().first()
            if row is None:
                return None
            job, token = _load(row).start(now), row["fencing_token"] + 1
            _write(connection, row["seq"], job, fencing_token=token, lease_until=until)
        return Lease(job, token)

    @typed_errors
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
        with writing(self._engine) as connection:
            try:
                row = _row(connection, tenant, job_id, locked=True)
            except NotFound:
                if token is None:
                    raise
                raise StaleLeaseError(f"jobs/{job_id}") from None
            job = _load(row)
            if token is not None and (row["fencing_token"] != token or job.state.ended):
                raise StaleLeaseError(job.name)
            job = change(job)
            extended = {} if until is None else {"lease_until": until}
            _write(connection, row["seq"], job, **extended)
        return job

    @typed_errors
    def delete(self, tenant: str, job_id: str, check: Callable[[Job], None]) -> Job:
        """See JobStore."""
        with writing(self._engine) as connection:
            job = _load(_row(connection, tenant, job_id, locked=True))
            check(job)
            delete_job(connection, tenant, job_id)
        return job

    @typed_errors
    def unfinished(self) -> dict[str, int]:
        """Return how many jobs of all tenants are queued and how many run."""
        states = (JobState.QUEUED.value, JobState.RUNNING.value)
        query = select(jobs.c.state, func.count()).where(jobs.c.state.in_(states)).group_by(jobs.c.state)
        with reading(self._engine) as connection:
            found: dict[str, int] = dict(connection.execute(query).tuples().all())
        return {state: found.get(state, 0) for state in states}

    @typed_errors
    def expire_leases(self) -> None:
        """Let every running job be leased again at once: for a service that knows itself to be the only one."""
        with writing(self._engine) as connection:
            connection.execute(update(jobs).where(jobs.c.state == JobState.RUNNING).values(lease_until=None))


def insert_job(connection: Connection, job: Job) -> None:
    """Write a new job inside a transaction."""
    row = {"tenant": job.tenant, "id": job.id, "state": job.state.value, "body": JOB.dump(job).decode()}
    connection.execute(insert(jobs).values(**row, fencing_token=0))
    remember_uses(connection, job.tenant, job.name, named_resources(job.spec))


def delete_job(connection: Connection, tenant: str, job_id: str) -> None:
    """Remove a job inside a transaction."""
    connection.execute(delete(jobs).where(jobs.c.tenant == tenant, jobs.c.id == job_id))
    forget_uses(connection, tenant, f"jobs/{job_id}")


def cancel_jobs(connection: Connection, tenant: str, job_ids: Iterable[str], now: datetime) -> tuple[Job, ...]:
    """Cancel, inside a transaction, those of the jobs that have not ended, and return them."""
    cancelled = []
    for job_id in job_ids:
        row = _row(connection, tenant, job_id, locked=True)
        job = _load(row)
        if not job.state.ended:
            cancelled.append(job.cancel(now))
            _write(connection, row["seq"], cancelled[-1])
    return tuple(cancelled)


def _row(connection: Connection, tenant: str, job_id: str, *, locked: bool = False) -> RowMapping:
    query = select(jobs).where(jobs.c.tenant == tenant, jobs.c.id == job_id)
    query = query.with_for_update() if locked else query
    row = connection.execute(query).mappings().first()
    if row is None:
        raise _missing(job_id)
    return row


def _missing(job_id: str) -> NotFound:
    return NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no jobs/{job_id}", metadata={"resource": f"jobs/{job_id}"})


def _write(connection: Connection, seq: int, job: Job, **columns: object) -> None:
    values = {"state": job.state.value, "body": JOB.dump(job).decode(), **columns}
    connection.execute(update(jobs).where(jobs.c.seq == seq).values(**values))


def _load(row: RowMapping) -> Job:
    return JOB.load(row["body"])
