"""RecentIndexes in SQL."""

from datetime import datetime

from sqlalchemy import Engine, select, update

from undue_service.domain.indexes import Index

from .database import reading, typed_errors, writing
from .index_rows import load_index
from .tables import indexes


class SqlRecentIndexes:
    """Which indexes were explained from last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def touch(self, tenant: str, index_id: str, now: datetime) -> None:
        """See RecentIndexes."""
        mine = (indexes.c.tenant == tenant) & (indexes.c.id == index_id)
        with writing(self._engine) as connection:
            connection.execute(update(indexes).where(mine).values(explain_time=now))

    @typed_errors
    def recent(self, limit: int) -> tuple[Index, ...]:
        """See RecentIndexes."""
        query = select(indexes).where(indexes.c.explain_time.is_not(None))
        query = query.order_by(indexes.c.explain_time.desc(), indexes.c.seq.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = connection.execute(query).mappings().all()
            return tuple(load_index(connection, row) for row in rows)
