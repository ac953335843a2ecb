"""Who names which model or data set, inside a transaction."""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select

from .tables import uses


def remember_uses(connection: Connection, tenant: str, user: str, targets: Iterable[str]) -> None:
    """Note that a job or a model names resources."""
    for target in targets:
        connection.execute(insert(uses).values(tenant=tenant, target=target, user=user))


def users_of(connection: Connection, tenant: str, targets: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the jobs and models that name any of the targets, in order."""
    mine = (uses.c.tenant == tenant) & uses.c.target.in_(tuple(targets))
    query = select(uses.c.user).where(mine).distinct().order_by(uses.c.user)
    return tuple(connection.execute(query).scalars())


def forget_uses(connection: Connection, tenant: str, user: str) -> None:
    """Forget what a job or a model named."""
    connection.execute(delete(uses).where(uses.c.tenant == tenant, uses.c.user == user))
