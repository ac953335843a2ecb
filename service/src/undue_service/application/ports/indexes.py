"""Ports: what is kept of indexes. Every method is one transaction."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from undue_service.domain.indexes import Alias, Index
from undue_service.domain.jobs import Job
from undue_service.domain.resources import RequestKey

from .stores import Page


@dataclass(frozen=True, slots=True)
class DeletedIndex:
    """What is gone."""

    index: Index
    """As it was; its jobs are gone with it."""
    aliases: tuple[str, ...]
    """`aliases/{id}` of those that meant it."""


class IndexStore(Protocol):
    """Indexes with their jobs. Every method is one transaction."""

    def add(self, tenant: str, make: Callable[[], Index], request: RequestKey | None) -> Index:
        """Store a new index, as `make()` makes it, and the job that builds it; or return what the request made before.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED.
            NotFound: RESOURCE_NOT_FOUND where what the request made was deleted.
        """

    def get(self, tenant: str, index_id: str) -> Index:
        """Return an index.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Index]:
        """Return the newest indexes, or those before a position that an earlier page gave."""

    def change(self, tenant: str, index_id: str, make: Callable[[Index], Job], request: RequestKey | None) -> Job:
        """Store a job that changes an index, as `make(index)` makes it; or return what the same request made before.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED.
            FailedPrecondition: INDEX_BUSY while a job of it has not ended.
            NotFound: RESOURCE_NOT_FOUND.
        """

    def delete(
        self, tenant: str, index_id: str, check: Callable[[Index, tuple[str, ...]], None], now: datetime
    ) -> DeletedIndex:
        """Forget an index with its jobs and aliases, unless `check(index, names of aliases)` raises.

        In what is returned, jobs that had not ended are cancelled.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """


class ErasureStore(Protocol):
    """Which rows of indexes are erased. Every method is one transaction."""

    def erase(self, tenant: str, index_id: str, rows: tuple[int, ...], check: Callable[[Index, int], None]) -> Index:
        """Erase rows, unless `check(index, how many are erased with these)` raises; those that were erased stay so.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def erased(self, tenant: str, index_id: str) -> tuple[int, ...]:
        """Return the numbers of the rows that are erased, ascending; none of an index that does not exist."""


class AliasStore(Protocol):
    """Names that mean an index. Every method is one transaction."""

    def set(self, alias: Alias) -> Alias:
        """Let an alias mean an index from now on.

        Raises:
            NotFound: RESOURCE_NOT_FOUND where there is no such index.
        """

    def get(self, tenant: str, alias_id: str) -> Alias:
        """Return an alias.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def index(self, tenant: str, alias_id: str) -> Index:
        """Return the index that an alias means.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def list(self, tenant: str, limit: int, after: str | None) -> tuple[tuple[Alias, ...], bool]:
        """Return the first aliases by name, or those after a name, and whether there are more."""

    def delete(self, tenant: str, alias_id: str) -> Alias:
        """Forget an alias.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """


class RecentIndexes(Protocol):
    """Which indexes were explained from last, of all tenants. Every method is one transaction."""

    def touch(self, tenant: str, index_id: str, now: datetime) -> None:
        """Note that an index was explained from; one that is gone is left so."""

    def recent(self, limit: int) -> tuple[Index, ...]:
        """Return the indexes that were explained from last, the last one first."""
