"""Queue, look up, watch and cancel jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from undue_service.domain.comparison import Compare
from undue_service.domain.costs import BLOCK_BYTES, Estimate, beside, estimate
from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.methods import works_over_checkpoints
from undue_service.domain.names import new_token, parse_token
from undue_service.domain.reports import ModelReport
from undue_service.domain.resources import Registration, RequestKey
from undue_service.domain.specs import RequestedJob, ScoringJob, TestingJob, test_of

from .admission import check_asked, check_job, selected, settled_method, settled_other
from .changes import Changes, wait
from .ports import Clock, JobStore, Metrics, Page
from .registration import Registrations
from .validated import dataset_report, model_report, model_spec

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

        check_asked(spec)
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
        check_asked(spec)
        settled = self._settled(tenant, spec)
        test_rows = 0
        if settled.test is not None and isinstance(spec, TestingJob):
            test_rows = spec.test_rows(dataset_report(settled.test).rows)
        asked = settled.spec
        found = self._estimated(asked, selected(spec, settled.model), settled.model, settled.train, test_rows)
        if settled.other is not None and isinstance(asked, Compare):
            by_other = replace(asked, model=settled.other.name, method=asked.other_method, parameters=())
            report = model_report(settled.other)
            found = beside(found, self._estimated(by_other, report, settled.other, settled.train, test_rows))
        return asked, found

    def _estimated(
        self, spec: RequestedJob, model: ModelReport, registered: Registration, train: Registration, test_rows: int
    ) -> Estimate:
        """Return what a job takes of one model, with those parameters selected that its scores run over."""
        if model.speed is None:
            text = (
                f"{registered.name} was registered without a sample that has targets, so its speed was not "
                "measured: register it with sample="
            )
            raise FailedPrecondition(Reason.RESOURCE_NOT_READY, text)
        known = model_spec(registered)
        over = isinstance(spec, ScoringJob) and works_over_checkpoints(spec.method, spec.ensemble)
        return estimate(
            spec,
            model,
            model.speed,
            dataset_report(train).rows,
            test_rows,
            registered=model_report(registered),
            training=known.training,
            members=max(1, len(known.checkpoints)) if over else 1,
            block_bytes=self._block_bytes,
        )

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
        if test_of(spec):
            test = self._dataset(tenant, f"{field}.test", test_of(spec))
        asked = spec
        spec = settled_method(spec, model)
        check_job(spec, model, train, test)
        settled: RequestedJob = replace(spec, model=model.name, train=train.name)
        if test is not None and isinstance(settled, TestingJob):
            settled = replace(settled, test=test.name)
        other = None
        if isinstance(settled, Compare) and settled.other is not None:
            other = self._registrations.usable(tenant, "models", f"{field}.other", settled.other)
            # The method that was asked for, not that which the first model got, is the other one's, too.
            wanted = settled.other_method or (asked.method if isinstance(asked, Compare) else "")
            settled = settled_other(replace(settled, other_method=wanted), other)
        return _Settled(settled, model, train, test, other)

    def _dataset(self, tenant: str, field: str, name: str) -> Registration:
        return self._registrations.usable(tenant, "datasets", field, name)


@dataclass(frozen=True, slots=True)
class _Settled:
    spec: RequestedJob
    model: Registration
    train: Registration
    test: Registration | None
    other: Registration | None = None
    """Another model that is asked, too."""
