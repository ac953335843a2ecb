"""Who names which model or data set, inside a transaction."""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select

from .tables import uses


def remember_uses(connection: Connection, tenant: str, user: str, targets: Iterable[str]) -> None:
    """Note that a job, a model or an index names resources."""
    for target in targets:
        connection.execute(insert(uses).values(tenant=tenant, target=target, user=user))


def users_of(connection: Connection, tenant: str, targets: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the jobs, models and indexes that name any of the targets, in order, and which each names."""
    mine = (uses.c.tenant == tenant) & uses.c.target.in_(tuple(targets))
    query = select(uses.c.user, uses.c.target).where(mine).order_by(uses.c.user, uses.c.target)
    found: dict[str, list[str]] = {}
    for user, target in connection.execute(query):
        found.setdefault(user, []).append(target)
    return found


def forget_uses(connection: Connection, tenant: str, user: str) -> None:
    """Forget what a job, a model or an index named."""
    connection.execute(delete(uses).where(uses.c.tenant == tenant, uses.c.user == user))
