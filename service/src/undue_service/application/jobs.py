"""Queue, look up, watch and cancel jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from undue_service.domain.costs import BLOCK_BYTES, Estimate, estimate
from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.methods import works_over_checkpoints
from undue_service.domain.names import new_token, parse_token
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.resources import Registration, RequestKey
from undue_service.domain.specs import Leverage, ModelSpec, RequestedJob, ScoringJob, SelfInfluence

from .admission import check_job, check_method, dataset_report, model_report, selected, settled_method
from .changes import Changes, wait
from .ports import Clock, JobStore, Metrics, Page
from .registration import Registrations

log = logging.getLogger(__name__)


class Jobs:
    """Use cases of JobService, but for results."""

    def __init__(
        self,
        store: JobStore,
        registrations: Registrations,
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._store = store
        self._registrations = registrations
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._block_bytes = block_bytes

    def create(self, tenant: str, spec: RequestedJob, timeout_seconds: float, request: RequestKey | None) -> Job:
        """Queue a job over resources that are ready; their versions are settled now.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY; whatever `admission` refuses.
            InvalidArgument: whatever `admission` refuses.
            NotFound: RESOURCE_NOT_FOUND.
        """
        made: list[Job] = []

        def make() -> Job:
            # Only for a request that is new: a repeated one gets its job back whatever has been registered since.
            settled = self._settled(tenant, spec).spec
            made.append(Job(tenant, new_token(), settled, self._clock.now(), timeout_seconds))
            return made[0]

        check_method(spec)
        job = self._store.add(tenant, make, request)
        if made:
            log.info("job queued", extra={"job": job.name, "kind": spec.kind})
            self._metrics.job_submitted(spec.kind)
            self._changes.queued()
        return job

    def estimate(self, tenant: str, spec: RequestedJob) -> tuple[RequestedJob, Estimate]:
        """Return the job as it would be queued, and what it would take.

        Raises:
            FailedPrecondition: as `create`; RESOURCE_NOT_READY for a model that was registered without a sample.
            InvalidArgument: as `create`.
            NotFound: RESOURCE_NOT_FOUND.
        """
        check_method(spec)
        settled = self._settled(tenant, spec)
        model = selected(spec, settled.model)
        if model.speed is None:
            text = (
                f"{settled.model.name} was registered without a sample that has targets, so its speed was not "
                "measured: register it with sample="
            )
            raise FailedPrecondition(Reason.RESOURCE_NOT_READY, text)
        test_rows = 0
        if settled.test is not None and not isinstance(spec, SelfInfluence | Leverage):
            asked = sum(map(len, spec.attacks)) if isinstance(spec, Perturb) else len(spec.rows)
            test_rows = asked or dataset_report(settled.test).rows
        train_rows = dataset_report(settled.train).rows
        known = settled.model.spec
        assert isinstance(known, ModelSpec)  # noqa: S101  the registry keeps the collections apart
        scoring = settled.spec
        over = isinstance(scoring, ScoringJob) and works_over_checkpoints(scoring.method, scoring.ensemble)
        found = estimate(
            settled.spec,
            model,
            model.speed,
            train_rows,
            test_rows,
            registered=model_report(settled.model),
            training=known.training,
            members=max(1, len(known.checkpoints)) if over else 1,
            block_bytes=self._block_bytes,
        )
        return settled.spec, found

    def get(self, tenant: str, name: str) -> Job:
        """Return a job.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._store.get(tenant, parse_token("name", name, "jobs"))

    def list(self, tenant: str, limit: int, before: int | None) -> Page[Job]:
        """Return jobs, newest first."""
        return self._store.list(tenant, limit, before)

    def cancel(self, tenant: str, name: str) -> Job:
        """Cancel a job; the scheduler kills its runner. One that has ended stays as it is.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        now = self._clock.now()
        job = self._store.update(tenant, parse_token("name", name, "jobs"), lambda job: job.cancel(now))
        if job.state is JobState.CANCELLED and job.end_time == now:
            self._metrics.job_finished(job)
        self._changes.changed(job.id)
        return job

    async def watch(self, tenant: str, name: str) -> AsyncIterator[Job]:
        """Yield the job as it stands, then at every change until it has ended.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        job_id = parse_token("name", name, "jobs")
        seen: Job | None = None
        async with self._changes.watching(job_id) as event:
            while True:
                job = await asyncio.to_thread(self._store.get, tenant, job_id)
                if job != seen:
                    yield job
                if job.state.ended:
                    return
                seen = job
                await wait(event)

    def _settled(self, tenant: str, spec: RequestedJob) -> "_Settled":
        """Return the spec with the versions that it means today, and those, checked against each other."""
        field = f"job.{spec.kind}"
        model = self._registrations.usable(tenant, "models", f"{field}.model", spec.model)
        train = self._dataset(tenant, f"{field}.train", spec.train)
        test = None
        if not isinstance(spec, SelfInfluence | Leverage):
            test = self._dataset(tenant, f"{field}.test", spec.test)
        spec = settled_method(spec, model)
        check_job(spec, model, train, test)
        settled: RequestedJob = replace(spec, model=model.name, train=train.name)
        if test is not None and not isinstance(settled, SelfInfluence | Leverage):
            settled = replace(settled, test=test.name)
        return _Settled(settled, model, train, test)

    def _dataset(self, tenant: str, field: str, name: str) -> Registration:
        return self._registrations.usable(tenant, "datasets", field, name)


@dataclass(frozen=True, slots=True)
class _Settled:
    spec: RequestedJob
    model: Registration
    train: Registration
    test: Registration | None
