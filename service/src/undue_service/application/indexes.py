"""Build, look up, change and delete indexes, and the aliases that mean them."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from undue_service.domain.costs import BLOCK_BYTES, Estimate
from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.etags import check_etag
from undue_service.domain.index_costs import estimate_index
from undue_service.domain.index_jobs import IndexBuild, IndexCompact, IndexExtend, IndexJob, IndexSpec
from undue_service.domain.indexes import Alias, Index, IndexState
from undue_service.domain.jobs import Job
from undue_service.domain.names import new_token, parse_alias, parse_token
from undue_service.domain.resources import Registration, RequestKey

from .changes import Changes
from .index_admission import check_erasure, check_extension, settled_index
from .ports import AliasStore, Clock, ErasureStore, IndexStore, Metrics, Page, RecentIndexes
from .registration import Registrations
from .superseding import Superseding
from .validated import dataset_report, model_report

log = logging.getLogger(__name__)

TOUCH_EVERY = timedelta(minutes=1)
"""How often it is noted that an index is explained from."""


class Indexes:
    """Use cases of IndexService, but for Explain."""

    def __init__(
        self,
        store: IndexStore,
        erasures: ErasureStore,
        aliases: AliasStore,
        recent: RecentIndexes,
        registrations: Registrations,
        superseding: Superseding,
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._store = store
        self._erasures = erasures
        self._aliases = aliases
        self._recent = recent
        self._registrations = registrations
        self._superseding = superseding
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._block_bytes = block_bytes
        self._touched: dict[tuple[str, str], datetime] = {}
        self._lock = threading.Lock()

    def create(self, tenant: str, spec: IndexSpec, request: RequestKey | None) -> Index:
        """Queue the job that builds an index of resources that are ready; their versions are settled now.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY; whatever `index_admission` refuses.
            InvalidArgument: whatever `index_admission` refuses.
            NotFound: RESOURCE_NOT_FOUND.
        """
        made: list[Index] = []

        def make() -> Index:
            # Only for a request that is new: a repeated one gets its index back whatever has been registered since.
            settled, _, _ = self._settled(tenant, spec)
            now, index_id = self._clock.now(), new_token()
            job = Job(tenant, new_token(), IndexBuild(f"indexes/{index_id}"), now)
            made.append(Index(tenant, index_id, settled, now, (job,)))
            return made[0]

        index = self._store.add(tenant, make, request)
        if made:
            self._queued(index.jobs[0])
        return index

    def estimate(self, tenant: str, spec: IndexSpec) -> tuple[IndexSpec, Estimate]:
        """Return what an index would be built of, and what that would take.

        Raises:
            FailedPrecondition: as `create`; RESOURCE_NOT_READY for a model that was registered without a sample.
            InvalidArgument: as `create`.
            NotFound: RESOURCE_NOT_FOUND.
        """
        settled, model, train = self._settled(tenant, spec)
        report = model_report(model).selecting(settled.parameters)
        if report.speed is None:
            text = (
                f"{model.name} was registered without a sample that has targets, so its speed was not measured: "
                "register it with sample="
            )
            raise FailedPrecondition(Reason.RESOURCE_NOT_READY, text)
        rows = dataset_report(train).rows
        return settled, estimate_index(settled, report, report.speed, rows, self._block_bytes)

    def get(self, tenant: str, field: str, name: str) -> Index:
        """Return the index that a name or an alias, a field of a request, means.

        Raises:
            InvalidArgument: INVALID_NAME.
            NotFound: RESOURCE_NOT_FOUND.
        """
        if name.startswith("aliases/"):
            return self._aliases.index(tenant, parse_alias(field, name))
        return self._store.get(tenant, parse_token(field, name, "indexes"))

    def resolve(self, tenant: str, field: str, name: str) -> Index:
        """Return the index that a name or an alias means, which can be explained from.

        Raises:
            InvalidArgument: INVALID_NAME.
            NotFound: RESOURCE_NOT_FOUND.
            FailedPrecondition: RESOURCE_NOT_READY.
        """
        return self.get(tenant, field, name).ready()

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Index]:
        """Return indexes, newest first."""
        return self._store.list(tenant, limit, before)

    def delete(self, tenant: str, name: str, etag: str, *, force: bool) -> None:
        """Delete an index, its jobs and its files; with `force`, although aliases mean it: they go too.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
            FailedPrecondition: RESOURCE_IN_USE naming the aliases, without `force`; ETAG_MISMATCH.
        """

        def check(index: Index, aliases: tuple[str, ...]) -> None:
            check_etag(name, etag, index.etag)
            if aliases and not force:
                text = f"{name} is what {', '.join(aliases[:10])} means: let it mean another index, or use force"
                metadata = {"users": ",".join(aliases[:2]), "count": str(len(aliases))}
                raise FailedPrecondition(Reason.RESOURCE_IN_USE, text, metadata=metadata)

        before = self._clock.now()
        gone = self._store.delete(tenant, parse_token("name", name, "indexes"), check, before).index
        for job in gone.jobs:
            if job.end_time == before:
                self._metrics.job_finished(job)
            self._changes.changed(job.id)
        self._superseding.deleted(gone)
        log.info("index deleted", extra={"resource": gone.name})

    def extend(self, tenant: str, name: str, dataset: str, request: RequestKey | None) -> Job:
        """Queue the job that appends the rows of a data set, without fitting the curvature again.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY; INDEX_BUSY.
            InvalidArgument: whatever `index_admission` refuses.
            NotFound: RESOURCE_NOT_FOUND.
        """

        def spec(index: Index) -> IndexJob:
            added = self._registrations.usable(tenant, "datasets", "dataset", dataset)
            model = self._registrations.get(tenant, "models", "model", index.spec.model)
            check_extension(index, model, self._dataset(index, index.spec.train), added)
            return IndexExtend(index.name, added.name)

        return self._change(tenant, name, spec, request)

    def compact(self, tenant: str, name: str, request: RequestKey | None) -> Job:
        """Queue the job that writes the files of an index anew, without the rows that were erased.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY; INDEX_BUSY.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._change(tenant, name, lambda index: IndexCompact(index.name), request)

    def erase(self, tenant: str, name: str, rows: tuple[int, ...]) -> Index:
        """Take rows out of every later answer, at once.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
            InvalidArgument: ROW_OUT_OF_RANGE; INVALID_FIELD where no row would be left.
            NotFound: RESOURCE_NOT_FOUND.
        """
        index_id = parse_token("name", name, "indexes")

        def check(index: Index, erased: int) -> None:
            datasets = [self._dataset(index, dataset) for dataset in index.ready().datasets]
            check_erasure(index, rows, sum(dataset_report(one).rows for one in datasets), erased)

        return self._erasures.erase(tenant, index_id, rows, check)

    def set_alias(self, tenant: str, name: str, index: str) -> Alias:
        """Let an alias mean an index that is ready from now on.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
            InvalidArgument: INVALID_NAME.
            NotFound: RESOURCE_NOT_FOUND.
        """
        alias_id = parse_alias("alias.name", name)
        meant = self._store.get(tenant, parse_token("alias.index", index, "indexes")).ready()
        return self._aliases.set(Alias(tenant, alias_id, meant.name, self._clock.now()))

    def alias(self, tenant: str, name: str) -> Alias:
        """Return an alias.

        Raises:
            InvalidArgument: INVALID_NAME.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._aliases.get(tenant, parse_alias("name", name))

    def aliases(self, tenant: str, limit: int, after: str | None) -> tuple[tuple[Alias, ...], bool]:
        """Return aliases by name, those after an id where one is given, and whether there are more."""
        return self._aliases.list(tenant, limit, after)

    def delete_alias(self, tenant: str, name: str) -> None:
        """Delete an alias; what it meant stays.

        Raises:
            InvalidArgument: INVALID_NAME.
            NotFound: RESOURCE_NOT_FOUND.
        """
        self._aliases.delete(tenant, parse_alias("name", name))

    def touch(self, index: Index) -> None:
        """Note that an index is explained from, so that it is warm after a restart; written once a minute at most."""
        key, now = (index.tenant, index.id), self._clock.now()
        with self._lock:
            known = self._touched.get(key)
            if known is not None and now - known < TOUCH_EVERY:
                return
            self._touched[key] = now
        self._recent.touch(*key, now)

    def recent(self, limit: int) -> tuple[Index, ...]:
        """Return the indexes of all tenants that were explained from last and can be, the last one first."""
        return tuple(one for one in self._recent.recent(limit) if one.state is IndexState.READY)

    def _settled(self, tenant: str, spec: IndexSpec) -> tuple[IndexSpec, Registration, Registration]:
        model = self._registrations.usable(tenant, "models", "index.model", spec.model)
        train = self._registrations.usable(tenant, "datasets", "index.train", spec.train)
        return settled_index(spec, model, train), model, train

    def _dataset(self, index: Index, name: str) -> Registration:
        return self._registrations.get(index.tenant, "datasets", "dataset", name).ready()

    def _change(self, tenant: str, name: str, spec: Callable[[Index], IndexJob], request: RequestKey | None) -> Job:
        made: list[Job] = []

        def make(index: Index) -> Job:
            made.append(Job(tenant, new_token(), spec(index.ready()), self._clock.now()))
            return made[0]

        job = self._store.change(tenant, parse_token("name", name, "indexes"), make, request)
        if made:
            self._queued(job)
        return job

    def _queued(self, job: Job) -> None:
        log.info("job queued", extra={"job": job.name, "kind": job.spec.kind})
        self._metrics.job_submitted(job.spec.kind)
        self._changes.queued()
