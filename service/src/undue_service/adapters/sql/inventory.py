"""Inventory in SQL."""

from datetime import datetime

from sqlalchemy import JSON, Engine, delete, func, select, type_coerce, union

from undue_service.domain.jobs import JobState
from undue_service.domain.resources import Upload

from .database import reading, typed_errors, writing
from .tables import index_jobs, jobs, requests, uploads, version_artifacts
from .uploads import load_upload


class SqlInventory:
    """What all tenants have."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def referenced(self) -> set[tuple[str, str]]:
        """See Inventory."""
        declared = select(uploads.c.tenant, uploads.c.sha256)
        kept = select(version_artifacts.c.tenant, version_artifacts.c.digest)
        # Of the jobs of an index, the newest that succeeded left all that it holds.
        same = (index_jobs.c.tenant == jobs.c.tenant) & (index_jobs.c.job == jobs.c.id)
        succeeded = jobs.c.state == JobState.SUCCEEDED.value
        newest = select(func.max(jobs.c.seq)).join(index_jobs, same).where(succeeded)
        newest = newest.group_by(index_jobs.c.tenant, index_jobs.c.index_id)
        # The results alone: parsing whole jobs, rows and reports included, would take long.
        results = select(jobs.c.tenant, type_coerce(jobs.c.body, JSON)["results"]).outerjoin(index_jobs, same)
        results = results.where(succeeded, index_jobs.c.job.is_(None) | jobs.c.seq.in_(newest))
        with reading(self._engine) as connection:
            found = {(tenant, digest) for tenant, digest in connection.execute(union(declared, kept))}
            for tenant, files in connection.execute(results):
                found |= {(tenant, digest) for digest in files.values()}
        return found

    @typed_errors
    def unfinished_jobs(self) -> set[str]:
        """See Inventory."""
        states = (JobState.QUEUED.value, JobState.RUNNING.value)
        with reading(self._engine) as connection:
            return set(connection.execute(select(jobs.c.id).where(jobs.c.state.in_(states))).scalars())

    @typed_errors
    def uploads(self) -> tuple[Upload, ...]:
        """See Inventory."""
        with reading(self._engine) as connection:
            return tuple(load_upload(row) for row in connection.execute(select(uploads)).mappings())

    @typed_errors
    def drop_upload(self, tenant: str, upload_id: str) -> None:
        """See Inventory."""
        with writing(self._engine) as connection:
            connection.execute(delete(uploads).where(uploads.c.tenant == tenant, uploads.c.id == upload_id))
            connection.execute(delete(requests).where(requests.c.tenant == tenant, requests.c.resource == upload_id))

    @typed_errors
    def drop_requests(self, before: datetime) -> int:
        """See Inventory."""
        with writing(self._engine) as connection:
            return connection.execute(delete(requests).where(requests.c.create_time < before)).rowcount
