"""ErasureStore in SQL."""

from collections.abc import Callable

from sqlalchemy import Engine, insert, select, update

from undue_service.domain.indexes import Index

from .database import reading, typed_errors, writing
from .index_rows import index_row, load_index
from .tables import erased_rows, indexes

_TOGETHER = 10_000
"""Rows of one statement."""


class SqlErasureStore:
    """Which rows of indexes are erased."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def erase(self, tenant: str, index_id: str, rows: tuple[int, ...], check: Callable[[Index, int], None]) -> Index:
        """See ErasureStore."""
        with writing(self._engine) as connection:
            row = index_row(connection, tenant, index_id, locked=True)
            index = load_index(connection, row)
            query = select(erased_rows.c.row).where(erased_rows.c.index == row["seq"])
            new = sorted(set(rows) - set(connection.execute(query).scalars()))
            check(index, index.erased + len(new))
            for first in range(0, len(new), _TOGETHER):
                part = new[first : first + _TOGETHER]
                values = [{"index": row["seq"], "row": number, "tenant": tenant} for number in part]
                connection.execute(insert(erased_rows), values)
            count = index.erased + len(new)
            connection.execute(update(indexes).where(indexes.c.seq == row["seq"]).values(erased=count))
            return load_index(connection, index_row(connection, tenant, index_id))

    @typed_errors
    def erased(self, tenant: str, index_id: str) -> tuple[int, ...]:
        """See ErasureStore."""
        mine = (indexes.c.tenant == tenant) & (indexes.c.id == index_id)
        query = select(erased_rows.c.row).join(indexes, indexes.c.seq == erased_rows.c.index).where(mine)
        with reading(self._engine) as connection:
            return tuple(connection.execute(query.order_by(erased_rows.c.row)).scalars())
