"""IndexStore, ErasureStore, AliasStore and RecentIndexes in memory."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import TypeAlias

from undue_service.adapters.index_uses import IndexUse
from undue_service.application.ports import DeletedIndex, Page
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.index_jobs import IndexJob
from undue_service.domain.indexes import Alias, Index
from undue_service.domain.jobs import Job
from undue_service.domain.resources import RequestKey
from undue_service.domain.specs import named_resources

from .jobs import MemoryJobStore
from .paging import page

_Users: TypeAlias = dict[str, list[str]]
"""Who names which targets."""


class MemoryIndexStore:
    """Indexes, beside the jobs that build and change them."""

    def __init__(self, jobs: MemoryJobStore) -> None:
        self.jobs = jobs
        self.aliases: dict[tuple[str, str], Alias] = {}
        self.erased: dict[tuple[str, str], set[int]] = {}
        self.explained: dict[tuple[str, str], tuple[datetime, int]] = {}
        self._indexes: dict[tuple[str, str], tuple[int, Index]] = {}
        self._seq = count(1)

    def add(self, tenant: str, make: Callable[[], Index], request: RequestKey | None) -> Index:
        """See IndexStore."""
        with self.jobs.lock:
            known = self.jobs.requests.remembered(tenant, request)
            if known is not None:
                return self.get(tenant, str(known))
            index = make()
            for job in index.jobs:
                self.jobs.add(tenant, lambda job=job: job, None)  # type: ignore[misc]
            self._indexes[tenant, index.id] = (next(self._seq), index)
            self.jobs.requests.remember(tenant, request, index.id)
            return index

    def get(self, tenant: str, index_id: str) -> Index:
        """See IndexStore."""
        with self.jobs.lock:
            return self._current(self._row(tenant, index_id)[1])

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Index]:
        """See IndexStore."""
        with self.jobs.lock:
            mine = [(seq, self._current(one)) for seq, one in self._indexes.values() if one.tenant == tenant]
        return page(mine, limit, before)

    def change(self, tenant: str, index_id: str, make: Callable[[Index], Job], request: RequestKey | None) -> Job:
        """See IndexStore."""
        with self.jobs.lock:
            known = self.jobs.requests.remembered(tenant, request)
            if known is not None:
                return self.jobs.get(tenant, str(known))
            index = self.get(tenant, index_id).idle()
            job = self.jobs.add(tenant, lambda: make(index), None)
            self.put(replace(index, jobs=(*index.jobs, job)))
            self.jobs.requests.remember(tenant, request, job.id)
            return job

    def delete(
        self, tenant: str, index_id: str, check: Callable[[Index, tuple[str, ...]], None], now: datetime
    ) -> DeletedIndex:
        """See IndexStore."""
        with self.jobs.lock:
            index = self.get(tenant, index_id)
            meaning = [key for key, one in self.aliases.items() if (one.tenant, one.index) == (tenant, index.name)]
            names = tuple(sorted(self.aliases[key].name for key in meaning))
            check(index, names)
            for job in index.jobs:
                self.jobs.delete(tenant, job.id, lambda _: None)
            for key in meaning:
                del self.aliases[key]
            del self._indexes[tenant, index_id]
            self.erased.pop((tenant, index_id), None)
            self.explained.pop((tenant, index_id), None)
            return DeletedIndex(replace(index, jobs=tuple(job.cancel(now) for job in index.jobs)), names)

    def put(self, index: Index) -> None:
        """Store an index in the place of what it was."""
        seq, _ = self._row(index.tenant, index.id)
        self._indexes[index.tenant, index.id] = (seq, index)

    def seq(self, tenant: str, index_id: str) -> int:
        """Return which index this is, counted from the first."""
        return self._row(tenant, index_id)[0]

    def all(self) -> tuple[Index, ...]:
        """Return every index of every tenant."""
        with self.jobs.lock:
            return tuple(self._current(one) for _, one in self._indexes.values())

    def users_of(self, tenant: str, targets: frozenset[str]) -> tuple[_Users, tuple[IndexUse, ...]]:
        """Return the indexes that name any of the targets, and their jobs that do."""
        users: _Users = {}
        uses = []
        for index in (one for one in self.all() if one.tenant == tenant):
            named = [name for name in named_resources(index.spec) if name in targets]
            if named:
                users[index.name] = named
            for job in index.jobs:
                assert isinstance(job.spec, IndexJob)  # noqa: S101  it is of an index
                names = targets & set(named_resources(job.spec))
                uses += [IndexUse(index.id, job.name, job.state, name) for name in sorted(names)]
        return users, tuple(uses)

    def lose(self, tenant: str, lost: _Users, now: datetime) -> tuple[Job, ...]:
        """Note of indexes, by their ids, what of theirs is gone, and return their jobs that are cancelled for it."""
        cancelled = []
        for index_id, names in lost.items():
            index = self.get(tenant, index_id)
            self.put(replace(index, lost=tuple(dict.fromkeys((*index.lost, *names)))))
            needing = [job for job in index.jobs if not job.state.ended]
            cancelled += [self.jobs.update(tenant, job.id, lambda job: job.cancel(now)) for job in needing]
        return tuple(cancelled)

    def _row(self, tenant: str, index_id: str) -> tuple[int, Index]:
        if (tenant, index_id) not in self._indexes:
            name = f"indexes/{index_id}"
            raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
        return self._indexes[tenant, index_id]

    def _current(self, index: Index) -> Index:
        jobs = tuple(self.jobs.get(index.tenant, job.id) for job in index.jobs)
        return replace(index, jobs=jobs, erased=len(self.erased.get((index.tenant, index.id), ())))


class MemoryErasureStore:
    """Which rows of indexes are erased."""

    def __init__(self, indexes: MemoryIndexStore) -> None:
        self._indexes = indexes

    def erase(self, tenant: str, index_id: str, rows: tuple[int, ...], check: Callable[[Index, int], None]) -> Index:
        """See ErasureStore."""
        with self._indexes.jobs.lock:
            index = self._indexes.get(tenant, index_id)
            erased = self._indexes.erased.get((tenant, index_id), set()) | set(rows)
            check(index, len(erased))
            self._indexes.erased[tenant, index_id] = erased
            return self._indexes.get(tenant, index_id)

    def erased(self, tenant: str, index_id: str) -> tuple[int, ...]:
        """See ErasureStore."""
        with self._indexes.jobs.lock:
            return tuple(sorted(self._indexes.erased.get((tenant, index_id), ())))


class MemoryAliasStore:
    """Names that mean an index."""

    def __init__(self, indexes: MemoryIndexStore) -> None:
        self._indexes = indexes

    def set(self, alias: Alias) -> Alias:
        """See AliasStore."""
        with self._indexes.jobs.lock:
            self._indexes.get(alias.tenant, alias.index.removeprefix("indexes/"))
            self._indexes.aliases[alias.tenant, alias.id] = alias
            return alias

    def get(self, tenant: str, alias_id: str) -> Alias:
        """See AliasStore."""
        with self._indexes.jobs.lock:
            if (tenant, alias_id) not in self._indexes.aliases:
                name = f"aliases/{alias_id}"
                raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
            return self._indexes.aliases[tenant, alias_id]

    def index(self, tenant: str, alias_id: str) -> Index:
        """See AliasStore."""
        with self._indexes.jobs.lock:
            return self._indexes.get(tenant, self.get(tenant, alias_id).index.removeprefix("indexes/"))

    def list(self, tenant: str, limit: int, after: str | None) -> tuple[tuple[Alias, ...], bool]:
        """See AliasStore."""
        with self._indexes.jobs.lock:
            mine = sorted(alias_id for owner, alias_id in self._indexes.aliases if owner == tenant)
            left = [alias_id for alias_id in mine if after is None or alias_id > after]
            return tuple(self._indexes.aliases[tenant, one] for one in left[:limit]), len(left) > limit

    def delete(self, tenant: str, alias_id: str) -> Alias:
        """See AliasStore."""
        with self._indexes.jobs.lock:
            alias = self.get(tenant, alias_id)
            del self._indexes.aliases[tenant, alias_id]
            return alias


class MemoryRecentIndexes:
    """Which indexes were explained from last."""

    def __init__(self, indexes: MemoryIndexStore) -> None:
        self._indexes = indexes

    def touch(self, tenant: str, index_id: str, now: datetime) -> None:
        """See RecentIndexes."""
        with self._indexes.jobs.lock:
            if any((one.tenant, one.id) == (tenant, index_id) for one in self._indexes.all()):
                self._indexes.explained[tenant, index_id] = (now, self._indexes.seq(tenant, index_id))

    def recent(self, limit: int) -> tuple[Index, ...]:
        """See RecentIndexes."""
        with self._indexes.jobs.lock:
            latest = sorted(self._indexes.explained.items(), key=lambda item: item[1], reverse=True)
            return tuple(self._indexes.get(*key) for key, _ in latest[:limit])
