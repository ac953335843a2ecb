"""IndexStore in SQL."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, Engine, delete, insert, select

from undue_service.application.ports import DeletedIndex, Page
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.indexes import Index
from undue_service.domain.jobs import Job
from undue_service.domain.resources import RequestKey
from undue_service.domain.specs import named_resources
from undue_service.wire.codec import INDEX_SPEC, JOB

from .database import page_of, reading, remember, remembered, typed_errors, writing
from .index_rows import index_row, load_index
from .jobs import delete_job, insert_job
from .tables import aliases, erased_rows, index_jobs, indexes, jobs
from .uses import forget_uses, remember_uses

_REPORT_BYTES = 4096
"""Of what a listing says of an index beside its spec, about."""


class SqlIndexStore:
    """Indexes with their jobs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def add(self, tenant: str, make: Callable[[], Index], request: RequestKey | None) -> Index:
        """See IndexStore."""
        with writing(self._engine) as connection:
            known = remembered(connection, tenant, request)
            if known is not None:
                return load_index(connection, index_row(connection, tenant, known))
            index = make()
            spec = INDEX_SPEC.dump(index.spec).decode()
            values = {"tenant": tenant, "id": index.id, "spec": spec, "erased": index.erased, "lost": ""}
            connection.execute(insert(indexes).values(**values, create_time=index.create_time))
            for job in index.jobs:
                _insert_job(connection, index.id, job)
            remember_uses(connection, tenant, index.name, named_resources(index.spec))
            remember(connection, tenant, request, index.id)
        return index

    @typed_errors
    def get(self, tenant: str, index_id: str) -> Index:
        """See IndexStore."""
        with reading(self._engine) as connection:
            return load_index(connection, index_row(connection, tenant, index_id))

    @typed_errors
    def list(self, tenant: str, limit: int, before: int | None) -> Page[Index]:
        """See IndexStore."""
        query = select(indexes).where(indexes.c.tenant == tenant).order_by(indexes.c.seq.desc())
        if before is not None:
            query = query.where(indexes.c.seq < before)
        with reading(self._engine) as connection:
            rows, more = page_of(connection, query, limit, lambda row: len(row["spec"]) + _REPORT_BYTES)
            found = tuple(load_index(connection, row) for row in rows)
        return Page(found, rows[-1]["seq"] if more else None)

    @typed_errors
    def change(self, tenant: str, index_id: str, make: Callable[[Index], Job], request: RequestKey | None) -> Job:
        """See IndexStore."""
        with writing(self._engine) as connection:
            known = remembered(connection, tenant, request)
            if known is not None:
                return _job(connection, tenant, known)
            index = load_index(connection, index_row(connection, tenant, index_id, locked=True))
            job = make(index.idle())
            _insert_job(connection, index_id, job)
            remember(connection, tenant, request, job.id)
        return job

    @typed_errors
    def delete(
        self, tenant: str, index_id: str, check: Callable[[Index, tuple[str, ...]], None], now: datetime
    ) -> DeletedIndex:
        """See IndexStore."""
        with writing(self._engine) as connection:
            row = index_row(connection, tenant, index_id, locked=True)
            index = load_index(connection, row)
            meaning = (aliases.c.tenant == tenant) & (aliases.c.index_id == index_id)
            ids = connection.execute(select(aliases.c.id).where(meaning).order_by(aliases.c.id)).scalars()
            names = tuple(f"aliases/{alias_id}" for alias_id in ids)
            check(index, names)
            for job in index.jobs:
                delete_job(connection, tenant, job.id)
            mine = (index_jobs.c.tenant == tenant) & (index_jobs.c.index_id == index_id)
            connection.execute(delete(index_jobs).where(mine))
            connection.execute(delete(aliases).where(meaning))
            connection.execute(delete(erased_rows).where(erased_rows.c.index == row["seq"]))
            connection.execute(delete(indexes).where(indexes.c.seq == row["seq"]))
            forget_uses(connection, tenant, index.name)
        return DeletedIndex(replace(index, jobs=tuple(job.cancel(now) for job in index.jobs)), names)


def _insert_job(connection: Connection, index_id: str, job: Job) -> None:
    insert_job(connection, job)
    connection.execute(insert(index_jobs).values(tenant=job.tenant, job=job.id, index_id=index_id))


def _job(connection: Connection, tenant: str, job_id: str) -> Job:
    body = connection.execute(select(jobs.c.body).where(jobs.c.tenant == tenant, jobs.c.id == job_id)).scalar()
    if body is None:
        name = f"jobs/{job_id}"
        raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
    return JOB.load(body)
