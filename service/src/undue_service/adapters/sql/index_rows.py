"""Indexes inside a transaction."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import Connection, RowMapping, func, select, update

from undue_service.adapters.index_uses import IndexUse
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.indexes import Index
from undue_service.domain.jobs import Job, JobState
from undue_service.wire.codec import INDEX_SPEC, JOB

from .database import utc
from .jobs import cancel_jobs
from .tables import index_jobs, indexes, jobs, uses


def index_row(connection: Connection, tenant: str, index_id: str, *, locked: bool = False) -> RowMapping:
    """Return the row of an index.

    Raises:
        NotFound: RESOURCE_NOT_FOUND.
    """
    query = select(indexes).where(indexes.c.tenant == tenant, indexes.c.id == index_id)
    row = connection.execute(query.with_for_update() if locked else query).mappings().first()
    if row is None:
        name = f"indexes/{index_id}"
        raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
    return row


def load_index(connection: Connection, row: RowMapping) -> Index:
    """Return the index of a row, with its jobs."""
    same = (jobs.c.tenant == index_jobs.c.tenant) & (jobs.c.id == index_jobs.c.job)
    mine = (index_jobs.c.tenant == row["tenant"]) & (index_jobs.c.index_id == row["id"])
    bodies = connection.execute(select(jobs.c.body).join(index_jobs, same).where(mine).order_by(jobs.c.seq)).scalars()
    return Index(
        row["tenant"],
        row["id"],
        INDEX_SPEC.load(row["spec"]),
        utc(row, "create_time"),
        tuple(JOB.load(body) for body in bodies),
        row["erased"],
        tuple(row["lost"].split()),
    )


def index_uses(connection: Connection, tenant: str, targets: Iterable[str]) -> tuple[IndexUse, ...]:
    """Return the jobs of indexes that name any of the targets."""
    named = func.substr(uses.c.user, len("jobs/") + 1) == index_jobs.c.job
    same = (jobs.c.tenant == index_jobs.c.tenant) & (jobs.c.id == index_jobs.c.job)
    query = select(index_jobs.c.index_id, uses.c.user, jobs.c.state, uses.c.target)
    query = query.join(uses, named & (uses.c.tenant == index_jobs.c.tenant)).join(jobs, same)
    query = query.where(uses.c.tenant == tenant, uses.c.target.in_(tuple(targets)), uses.c.user.startswith("jobs/"))
    rows = connection.execute(query)
    return tuple(IndexUse(index_id, job, JobState(state), target) for index_id, job, state, target in rows)


def lose(connection: Connection, tenant: str, lost: Mapping[str, Iterable[str]], now: datetime) -> tuple[Job, ...]:
    """Note of indexes, by their ids, what of theirs is gone, and return their jobs that are cancelled for it."""
    cancelled: tuple[Job, ...] = ()
    for index_id, names in lost.items():
        row = index_row(connection, tenant, index_id, locked=True)
        text = "\n".join(dict.fromkeys((*row["lost"].split(), *names)))
        connection.execute(update(indexes).where(indexes.c.seq == row["seq"]).values(lost=text))
        mine = (index_jobs.c.tenant == tenant) & (index_jobs.c.index_id == index_id)
        ids = connection.execute(select(index_jobs.c.job).where(mine)).scalars().all()
        cancelled += cancel_jobs(connection, tenant, ids, now)
    return cancelled
