"""Queue, look up, watch and cancel jobs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from undue_service.domain.jobs import Job, JobState
from undue_service.domain.methods import method_spec, self_influence_spec
from undue_service.domain.names import new_token, parse_token
from undue_service.domain.resources import Registration, RequestKey
from undue_service.domain.specs import Influence, RequestedJob, SelfInfluence

from .changes import Changes, wait
from .ports import Clock, JobStore, Metrics, Page
from .registration import Registrations


class Jobs:
    """Use cases of JobService, but for results."""

    def __init__(
        self, store: JobStore, registrations: Registrations, changes: Changes, metrics: Metrics, clock: Clock
    ) -> None:
        self._store = store
        self._registrations = registrations
        self._changes = changes
        self._metrics = metrics
        self._clock = clock

    def create(self, tenant: str, spec: RequestedJob, timeout_seconds: float, request: RequestKey | None) -> Job:
        """Queue a job over resources that are ready; their versions are settled now.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
            InvalidArgument: METHOD_UNKNOWN; INVALID_FIELD for self-influence by a method that has none.
            NotFound: RESOURCE_NOT_FOUND.
        """
        made: list[Job] = []

        def make() -> Job:
            # Only for a request that is new: a repeated one gets its job back whatever has been registered since.
            made.append(Job(tenant, new_token(), self._settled(tenant, spec), self._clock.now(), timeout_seconds))
            return made[0]

        _check_method(spec)
        job = self._store.add(tenant, make, request)
        if made:
            self._metrics.job_submitted(spec.kind)
            self._changes.queued()
        return job

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

    def _settled(self, tenant: str, spec: RequestedJob) -> RequestedJob:
        """Return the spec with the versions that it means today."""
        field = f"job.{spec.kind}"
        settled = replace(
            spec,
            model=self._registrations.get(tenant, "models", f"{field}.model", spec.model).ready().name,
            train=self._dataset(tenant, f"{field}.train", spec.train).name,
        )
        if isinstance(settled, SelfInfluence):
            return settled
        return replace(settled, test=self._dataset(tenant, f"{field}.test", settled.test).name)

    def _dataset(self, tenant: str, field: str, name: str) -> Registration:
        return self._registrations.get(tenant, "datasets", field, name).ready()


def _check_method(spec: RequestedJob) -> None:
    match spec:
        case SelfInfluence(method=method):
            self_influence_spec(method)
        case Influence(method=method):
            method_spec(method)
