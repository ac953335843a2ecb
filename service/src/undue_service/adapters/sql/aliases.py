"""AliasStore in SQL."""

from sqlalchemy import Connection, Engine, RowMapping, delete, insert, select, update

from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.indexes import Alias, Index

from .database import reading, typed_errors, utc, writing
from .index_rows import index_row, load_index
from .tables import aliases


class SqlAliasStore:
    """Names that mean an index."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def set(self, alias: Alias) -> Alias:
        """See AliasStore."""
        index_id = alias.index.removeprefix("indexes/")
        values = {"index_id": index_id, "update_time": alias.update_time}
        mine = (aliases.c.tenant == alias.tenant) & (aliases.c.id == alias.id)
        with writing(self._engine) as connection:
            index_row(connection, alias.tenant, index_id, locked=True)
            if not connection.execute(update(aliases).where(mine).values(**values)).rowcount:
                connection.execute(insert(aliases).values(tenant=alias.tenant, id=alias.id, **values))
        return alias

    @typed_errors
    def get(self, tenant: str, alias_id: str) -> Alias:
        """See AliasStore."""
        with reading(self._engine) as connection:
            return _load(_row(connection, tenant, alias_id))

    @typed_errors
    def index(self, tenant: str, alias_id: str) -> Index:
        """See AliasStore."""
        with reading(self._engine) as connection:
            row = _row(connection, tenant, alias_id)
            return load_index(connection, index_row(connection, tenant, row["index_id"]))

    @typed_errors
    def list(self, tenant: str, limit: int, after: str | None) -> tuple[tuple[Alias, ...], bool]:
        """See AliasStore."""
        query = select(aliases).where(aliases.c.tenant == tenant).order_by(aliases.c.id).limit(limit + 1)
        if after is not None:
            query = query.where(aliases.c.id > after)
        with reading(self._engine) as connection:
            found = tuple(_load(row) for row in connection.execute(query).mappings())
        return found[:limit], len(found) > limit

    @typed_errors
    def delete(self, tenant: str, alias_id: str) -> Alias:
        """See AliasStore."""
        with writing(self._engine) as connection:
            alias = _load(_row(connection, tenant, alias_id))
            connection.execute(delete(aliases).where(aliases.c.tenant == tenant, aliases.c.id == alias_id))
        return alias


def _row(connection: Connection, tenant: str, alias_id: str) -> RowMapping:
    query = select(aliases).where(aliases.c.tenant == tenant, aliases.c.id == alias_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        name = f"aliases/{alias_id}"
        raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
    return row


def _load(row: RowMapping) -> Alias:
    return Alias(row["tenant"], row["id"], f"indexes/{row['index_id']}", utc(row, "update_time"))
