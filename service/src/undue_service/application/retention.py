"""Clean up what nobody needs: abandoned uploads, artifacts without a reference, workspaces, old request ids.

An artifact is needed while a version, a job's result or an upload refers to it. Whoever writes such a reference keeps
or renews the artifact first, which makes it young, and only old ones are removed. So a reference that a sweep could
not see yet is to an artifact that it spares. Every step may be the last: the next sweep goes on from there.
"""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from undue_service.domain.errors import Error

from .ports import ArtifactStore, Clock, Inventory, Staging

T = TypeVar("T")

log = logging.getLogger(__name__)

GRACE = timedelta(hours=1)
"""How old what nothing refers to must be: its request, or the end of its job, may still be on its way."""
RELEASE_GRACE = timedelta(minutes=1)
"""The same where something referred to it until now: as long as a write to the store may take at the very most."""
REQUEST_TTL = timedelta(days=7)
"""How long a request may be repeated."""
EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed."""

    uploads: int = 0
    staged: int = 0
    artifacts: int = 0
    requests: int = 0
    workspaces: int = 0


class Retention:
    """Use cases of cleaning up."""

    def __init__(
        self,
        inventory: Inventory,
        artifacts: ArtifactStore,
        staging: Staging,
        clock: Clock,
        upload_ttl: timedelta,
    ) -> None:
        self._inventory = inventory
        self._artifacts = artifacts
        self._staging = staging
        self._clock = clock
        self._upload_ttl = upload_ttl
        self._released: dict[tuple[str, str], datetime] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def sweep(self, alone_since: datetime | None = None) -> Swept:
        """Remove everything that nobody needs.

        Args:
            alone_since: since when no other service uses these stores. What was left before that needs no grace:
                whoever was about to refer to it is dead.

        Raises:
            Error: the stores cannot be used; what was removed until then stays removed.
        """
        now = self._clock.now()
        before = max(now - GRACE, alone_since or now - GRACE)
        uploads = self._drop_uploads(now - self._upload_ttl)
        staged = self._drop_staged(before)
        artifacts = self._drop_artifacts(before)
        workspaces = self._drop_workspaces()
        swept = Swept(uploads, staged, artifacts, self._inventory.drop_requests(now - REQUEST_TTL), workspaces)
        log.info("swept", extra=asdict(swept))
        return swept

    def release(self, tenant: str, digests: Iterable[str], used_before: datetime) -> int:
        """Remove those of some artifacts that nothing refers to any more: for whoever has just deleted a reference.

        One that is too young to be sure of is left to `run`, which tries again every minute. Returns how many were
        removed at once. Uploads made before `used_before`, when the reference was made, brought what is deleted and are
        no reason to keep it; a later one is somebody's who has yet to use it.

        Raises:
            Error: the stores cannot be used.
        """
        with self._lock:
            for digest in digests:
                known = self._released.get((tenant, digest), used_before)
                self._released[tenant, digest] = max(known, used_before)
        return self._remove_released()

    async def run(self, alone_since: datetime | None) -> None:
        """Sweep now and every hour, and what was released while too young every minute, until cancelled."""
        await self._try(lambda: self.sweep(alone_since))
        swept = self._clock.now()
        while True:
            await asyncio.sleep(RELEASE_GRACE.total_seconds())
            if self._clock.now() - swept >= EVERY:
                await self._try(self.sweep)
                swept = self._clock.now()
            else:
                await self._try(self._remove_released)

    def _drop_uploads(self, before: datetime) -> int:
        """Drop the uploads that have not moved since: open ones with their bytes, finished ones that nobody used."""
        moved = {
            (one.tenant, one.key): one.modified for held in (self._staging, self._artifacts) for one in held.held()
        }
        dropped = 0
        for upload in self._until_stopped(self._inventory.uploads()):
            key = upload.sha256 if upload.finished else upload.id
            if max(upload.create_time, moved.get((upload.tenant, key), upload.create_time)) < before:
                self._inventory.drop_upload(upload.tenant, upload.id)
                self._staging.discard(upload.tenant, upload.id)
                dropped += 1
        return dropped

    def _drop_staged(self, before: datetime) -> int:
        """Remove what arrived of no upload: the bytes inside requests that died."""
        old = [one for one in self._staging.held() if one.modified < before]
        known = {(upload.tenant, upload.id) for upload in self._inventory.uploads()} if old else set()
        lost = [one for one in old if (one.tenant, one.key) not in known]
        for one in self._until_stopped(lost):
            self._staging.discard(one.tenant, one.key)
        return len(lost)

    def _drop_workspaces(self) -> int:
        """Remove those of jobs that have ended or are gone: a job that has a workspace was begun before this looks."""
        found = list(self._staging.workspaces())
        unfinished = self._inventory.unfinished_jobs() if found else set()
        lost = [key for key in found if key not in unfinished]
        for key in self._until_stopped(lost):
            self._staging.discard_workspace(key)
        return len(lost)

    def _drop_artifacts(self, before: datetime) -> int:
        old = [one for one in self._artifacts.held() if one.modified < before]
        referenced = self._inventory.referenced() if old else set()
        lost = [one for one in old if (one.tenant, one.key) not in referenced]
        return sum(self._artifacts.remove(one.tenant, one.key, before) for one in self._until_stopped(lost))

    def _remove_released(self) -> int:
        with self._lock:
            released = dict(self._released)
        if not released:
            return 0
        before = self._clock.now() - RELEASE_GRACE
        for upload in self._inventory.uploads():
            used = released.get((upload.tenant, upload.sha256))
            if upload.finished and used is not None and upload.create_time <= used:
                self._inventory.drop_upload(upload.tenant, upload.id)
        free = released.keys() - self._inventory.referenced()
        removed = {one for one in free if self._artifacts.remove(*one, before)}
        young = {one for one in free - removed if self._artifacts.contains(*one)}
        with self._lock:
            for one in released.keys() - young:
                self._released.pop(one, None)
        return len(removed)

    def _until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        return itertools.takewhile(lambda _: not self._stopping.is_set(), items)

    async def _try(self, action: Callable[[], object]) -> None:
        working = asyncio.create_task(asyncio.to_thread(action))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            self._stopping.set()  # the thread cannot be cancelled, and must have ended before the stores are closed
            await asyncio.wait((working,))
            raise
        except Error as error:
            log.warning("nothing can be cleaned up", extra={"reason": error.reason, "cause": error.message})
        except Exception:  # a row that cannot be read, say: nothing is removed rather than something that it refers to
            log.exception("cleaning up failed")
