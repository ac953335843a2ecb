"""Registry in memory."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from itertools import count

from undue_service.adapters.index_uses import lost_by, named_users
from undue_service.application.ports import Deleted, Page
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.names import Collection
from undue_service.domain.resources import Registration, RequestKey
from undue_service.domain.specs import FileSource, LocatedFile, named_resources

from .indexes import MemoryIndexStore
from .jobs import MemoryJobStore
from .paging import page


class MemoryRegistry:
    """Registry in memory, beside the jobs that validate what it holds, and the indexes that are made of it."""

    def __init__(self, jobs: MemoryJobStore, indexes: MemoryIndexStore | None = None) -> None:
        self._jobs = jobs
        self.indexes = indexes or MemoryIndexStore(jobs)
        self._versions: dict[int, Registration] = {}
        self._seq = count(1)
        self._newest: dict[tuple[str, Collection, str], int] = {}

    def add(
        self,
        registration: Callable[[int], Registration],
        tenant: str,
        collection: Collection,
        resource_id: str,
        request: RequestKey | None,
    ) -> Registration:
        """See Registry."""
        with self._jobs.lock:
            known = self._jobs.requests.remembered(tenant, request)
            if isinstance(known, Registration):
                if known not in self._versions.values():
                    text = "what this request registered has been deleted: make a new request_id to register it again"
                    raise NotFound(Reason.RESOURCE_NOT_FOUND, text)
                return self._current(known)
            new = registration(1 + self._newest.get((tenant, collection, resource_id), 0))
            self._newest[tenant, collection, resource_id] = new.version
            self._jobs.add(tenant, lambda: new.validation, None)
            self._versions[next(self._seq)] = new
            self._jobs.requests.remember(tenant, request, new)
            return new

    def get(self, tenant: str, collection: Collection, resource_id: str, version: int | None) -> Registration:
        """See Registry."""
        with self._jobs.lock:
            return self._current(self._found(tenant, collection, resource_id, version)[-1][1])

    def files(self, tenant: str, resource_id: str, version: int) -> tuple[LocatedFile, ...]:
        """See Registry."""
        with self._jobs.lock:
            spec = self._found(tenant, "datasets", resource_id, version)[0][1].spec
            files = spec.files if isinstance(spec, FileSource) and spec.listed_apart else ()
            return tuple(file for file in files if isinstance(file, LocatedFile))

    def list(
        self, tenant: str, collection: Collection, resource_id: str | None, limit: int, before: int | None
    ) -> Page[Registration]:
        """See Registry."""
        with self._jobs.lock:
            mine = self._of(tenant, collection, resource_id)
            return page([(seq, self._current(one)) for seq, one in mine], limit, before)

    def delete(
        self,
        tenant: str,
        collection: Collection,
        resource_id: str,
        version: int | None,
        check: Callable[[tuple[Registration, ...], tuple[str, ...]], None],
        now: datetime,
    ) -> Deleted:
        """See Registry."""
        with self._jobs.lock:
            rows = self._found(tenant, collection, resource_id, version)
            found = tuple(self._current(one) for _, one in rows)
            targets = frozenset(one.name for one in found)
            jobs = self._jobs.users_of(tenant, targets)
            models = [one.name for one in self._versions.values() if targets & set(named_resources(one.spec))]
            indexes, of_indexes = self.indexes.users_of(tenant, targets)
            check(found, named_users((*(job.name for job in jobs), *models, *indexes), of_indexes))
            needing = [job for job in jobs if not job.state.ended]
            cancelled = tuple(self._jobs.update(tenant, job.id, lambda job: job.cancel(now)) for job in needing)
            cancelled += self.indexes.lose(tenant, lost_by(indexes, of_indexes), now)
            for seq, one in rows:
                self._jobs.delete(tenant, one.validation.id, lambda _: None)
                del self._versions[seq]
            return Deleted(found, cancelled)

    def _found(
        self, tenant: str, collection: Collection, resource_id: str, version: int | None
    ) -> tuple[tuple[int, Registration], ...]:
        found = tuple(row for row in self._of(tenant, collection, resource_id) if version in (None, row[1].version))
        if not found:
            name = f"{collection}/{resource_id}" + (f"/versions/{version}" if version is not None else "")
            raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
        return found

    def versions(self) -> tuple[Registration, ...]:
        """Return every version of every tenant, for the inventory."""
        return tuple(self._versions.values())

    def _of(self, tenant: str, collection: Collection, resource_id: str | None) -> tuple[tuple[int, Registration], ...]:
        return tuple(
            (seq, one)
            for seq, one in self._versions.items()
            if (one.tenant, one.collection) == (tenant, collection) and resource_id in (None, one.id)
        )

    def _current(self, one: Registration) -> Registration:
        spec = one.spec
        if isinstance(spec, FileSource) and spec.listed_apart:
            spec = replace(spec, files=())
        return replace(one, spec=spec, validation=self._jobs.get(one.tenant, one.validation.id))
