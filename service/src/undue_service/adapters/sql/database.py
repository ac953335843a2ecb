"""Connections, transactions and migrations."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    RowMapping,
    Select,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError, TimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from undue_service.domain.errors import (
    AlreadyExists,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from undue_service.domain.resources import RequestKey

from .tables import requests

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

THREADS = 32
"""How many calls may use the database at once."""

PAGE_BYTES = 1 << 20
"""Of stored text in one page of a listing. As messages it comes to 4 MiB at the very most, what clients take."""

MIGRATIONS = Path(__file__).parent / "migrations"


def connect(url: str | URL) -> Engine:
    """Return an engine; SQLite is opened in WAL mode, made durable and told to wait for a lock rather than to fail.

    Raises:
        InvalidArgument: SETTINGS_INVALID.
    """
    # A transaction that adds may look up in another: there must be connections for every thread twice over.
    try:
        engine = create_engine(url, pool_pre_ping=True, pool_size=2 * THREADS, max_overflow=8)
    except (ArgumentError, ImportError) as error:
        raise InvalidArgument(Reason.SETTINGS_INVALID, f"UNDUE_DATABASE_URL cannot be used: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "handle_error", _drop_spoilt)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest version.

    Raises:
        Unavailable: STORAGE_UNAVAILABLE.
    """
    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise _storage_error(error) from error
    except alembic.util.CommandError as error:
        text = f"the database is not one that this version can bring up to date: {error}"
        raise FailedPrecondition(Reason.STORAGE_UNAVAILABLE, text) from error


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Give a connection in a transaction that writes."""
    with engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection in a transaction that only reads."""
    with engine.connect().execution_options(undue_reading=True) as connection:
        yield connection


def typed_errors(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Turn the database's errors into ours."""

    @wraps(function)
    def wrapped(self: object, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(self, *args, **kwargs)
        except SQLAlchemyError as error:
            raise _storage_error(error) from error

    return wrapped


def remembered(connection: Connection, tenant: str, request: RequestKey | None) -> str | None:
    """Return the id of what the same request made before.

    Raises:
        AlreadyExists: REQUEST_ID_REUSED.
    """
    if request is None:
        return None
    row = (
        connection.execute(select(requests).where(requests.c.tenant == tenant, requests.c.id == request.id))
        .mappings()
        .first()
    )
    if row is None:
        return None
    if row["fingerprint"] != request.fingerprint:
        text = f"request_id {request.id} was used for another request: make a new UUID for each request"
        raise AlreadyExists(Reason.REQUEST_ID_REUSED, text)
    return str(row["resource"])


def remember(connection: Connection, tenant: str, request: RequestKey | None, resource: str) -> None:
    """Note what a request made."""
    if request is not None:
        row = {"tenant": tenant, "id": request.id, "fingerprint": request.fingerprint}
        connection.execute(insert(requests).values(**row, resource=resource, create_time=datetime.now(UTC)))


def page_of(
    connection: Connection, query: Select[Any], limit: int, size: Callable[[RowMapping], int]
) -> tuple[list[RowMapping], bool]:
    """Return the first rows of a query, `limit` and about `PAGE_BYTES` at most but one at least, and if there are more.

    A job may name a million rows: what a page has no room for is not read.
    """
    rows: list[RowMapping] = []
    total = 0
    found = connection.execute(query.limit(limit + 1), execution_options={"yield_per": 1})
    for row in found.mappings():
        total += size(row)
        if rows and (len(rows) == limit or total > PAGE_BYTES):
            found.close()
            return rows, True
        rows.append(row)
    return rows, False


def utc(row: RowMapping, column: str) -> datetime:
    """Return a time of a row; SQLite forgets the zone."""
    value: datetime = row[column]
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _configure_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=15000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("undue_reading", False)
    # A transaction that reads first and writes later could fail at the upgrade of its lock; this one takes it at once.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _drop_spoilt(context: ExceptionContext) -> None:
    """Have a connection replaced that SQLite opened while the disk was read-only: it would stay so for good."""
    spoilt = ("attempt to write a readonly database", "disk I/O error")
    if any(words in str(context.original_exception) for words in spoilt):
        context.is_disconnect = True


def _storage_error(error: SQLAlchemyError) -> Error:
    log.error("the database failed", exc_info=error)  # its words are for the operator alone
    if isinstance(error, DBAPIError) and "database or disk is full" in str(error.orig):
        return ResourceExhausted(
            Reason.STORAGE_FULL, "the disk that holds the database is full: free space, then try again"
        )
    if isinstance(error, OperationalError | InterfaceError | TimeoutError):
        return Unavailable(Reason.STORAGE_UNAVAILABLE, "the database cannot be used at the moment: try again")
    return Internal(Reason.INTERNAL, "a fault of the service in its database; its log has it")
