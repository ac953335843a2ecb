"""Lease jobs, hand them to the pool, record how they go.

The store is the truth and every write carries the lease's fencing token, so a scheduler that was overtaken (it slept,
its lease ran out, another took the job) can never overwrite what its successor did.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from undue_service.domain.errors import (
    DeadlineExceeded,
    Error,
    Internal,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from undue_service.domain.jobs import Job, Lease, Progress
from undue_service.domain.reports import ExplainReport, OpenedReport, RowsReport, TaskResult

from .changes import Changes
from .planning import Planner
from .ports import Clock, JobStore, Metrics, RunnerLostError, StaleLeaseError, Work, WorkerPool

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=15)
TICK_SECONDS = 0.2
RETRY_SECONDS = 0.5
MAX_LOST_RUNNERS = 3
"""A job that has cost this many runners is at fault itself."""
MAX_INTERRUPTIONS = 10
"""So is one in whose attempts the service died this often, by filling the memory that they share for instance.

More than lost runners, as a service has other reasons to die, and few enough that it does not do so for hours on end.
"""


class Scheduler:
    """Runs jobs, as many at once as the pool has slots."""

    def __init__(
        self,
        jobs: JobStore,
        planner: Planner,
        pool: WorkerPool,
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        attempted: Callable[[Job], None] = lambda _: None,
    ) -> None:
        self._jobs = jobs
        self._attempted = attempted
        self._planner = planner
        self._pool = pool
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take jobs until cancelled; then the ones in flight are stopped and put back for whoever leases them next."""
        slots = asyncio.Semaphore(len(self._pool.status().devices))
        try:
            while True:
                await slots.acquire()
                lease = await self._next()
                task = asyncio.create_task(self._work(lease), name=lease.job.name)
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                task.add_done_callback(lambda _: slots.release())
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _next(self) -> Lease:
        while True:
            now = self._clock.now()
            try:
                lease = await asyncio.to_thread(self._jobs.lease, now, now + LEASE)
            except Exception:  # a full disk, a database that is away: the jobs are still there when it is back
                log.exception("no job can be leased")
                lease = None
            if lease is not None:
                return lease
            await self._changes.work()

    async def _work(self, lease: Lease) -> None:
        job = lease.job
        self._changes.changed(job.id)
        log.info("job started", extra={"job": job.name, "kind": job.spec.kind, "attempt": job.attempt})
        try:
            try:
                await self._attempt(lease)
            except StaleLeaseError:
                raise
            except RunnerLostError as lost:
                await self._runner_lost(lease, lost)
            except Error as error:
                await self._fail(lease, error)
            except Exception:
                log.exception("job failed unexpectedly", extra={"job": job.name})
                await self._fail(lease, Internal(Reason.INTERNAL, "a fault of the service; its log names this job"))
        except asyncio.CancelledError:
            await self._put_back(lease)
            raise
        except StaleLeaseError:
            log.info("job was cancelled or taken over", extra={"job": job.name})
        except Error as error:
            # Nothing could be written while the lease lasted: the job is leased again once the store is back.
            log.error("the end of a job could not be written", extra={"job": job.name, "cause": error.message})
        finally:
            self._changes.changed(job.id)
        await asyncio.to_thread(self._attempted, job)

    async def _attempt(self, lease: Lease) -> None:
        job = lease.job
        if job.interruptions >= MAX_INTERRUPTIONS:
            text = f"the service ended {job.interruptions} times while {job.name} ran, so it is not tried again"
            raise Unavailable(Reason.RUNNER_LOST, text)
        work = await asyncio.to_thread(self._planner.plan, job)
        try:
            result, kept, progress = await self._supervised(lease, work)
        finally:
            await asyncio.to_thread(self._planner.discard, work)
        now, report = self._clock.now(), result.report
        assert not isinstance(report, RowsReport | OpenedReport | ExplainReport)  # noqa: S101  the planner has compared it with the task
        await self._end(lease, lambda job: job.advance(progress).succeed(now, report, kept))
        log.info("job succeeded", extra={"job": job.name})

    async def _supervised(self, lease: Lease, work: Work) -> tuple[TaskResult, dict[str, str], Progress]:
        progress = _Latest(self._clock)

        async def run() -> tuple[TaskResult, dict[str, str]]:
            result = await self._pool.run(work, progress.set)
            return result, await asyncio.to_thread(self._planner.collect, work, result)

        running = asyncio.create_task(run())
        supervising = asyncio.create_task(self._supervise(lease, progress))
        try:
            await asyncio.wait((running, supervising), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                supervising.result()  # raises: it only ever ends so
            return *await running, progress.value
        finally:
            for task in (running, supervising):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Error, RunnerLostError, StaleLeaseError):
                    await task

    async def _supervise(self, lease: Lease, progress: "_Latest") -> None:
        """Write progress and extend the lease; raise when the job was cancelled, overtaken or is out of time."""
        job, written, renewed = lease.job, Progress(), self._clock.now()
        deadline = _deadline(job)
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, latest = self._clock.now(), progress.value
            if deadline is not None and now > deadline:
                limit = f"{job.timeout_seconds:g} s"
                text = f"{job.name} ran past its limit of {limit}: give it a larger timeout_seconds or less to do"
                raise DeadlineExceeded(Reason.JOB_DEADLINE, text)
            try:
                if latest != written or now - renewed > LEASE / 3:
                    await asyncio.to_thread(self._advance, lease, latest, now)
                    written, renewed = latest, now
                    self._changes.changed(job.id)
                elif (await asyncio.to_thread(self._jobs.state, job.tenant, job.id)).ended:
                    raise StaleLeaseError
            except NotFound as error:  # it was deleted
                raise StaleLeaseError from error
            except (Unavailable, ResourceExhausted) as error:
                if now - renewed > LEASE:
                    raise StaleLeaseError from error  # by now another may have it
                log.warning("progress cannot be written", extra={"job": job.name, "cause": error.message})

    def _advance(self, lease: Lease, progress: Progress, now: datetime) -> None:
        job = lease.job
        self._jobs.update(job.tenant, job.id, lambda job: job.advance(progress), token=lease.token, until=now + LEASE)

    async def _fail(self, lease: Lease, error: Error) -> None:
        now = self._clock.now()
        await self._end(lease, lambda job: job.fail(now, error))
        log.info("job failed", extra={"job": lease.job.name, "reason": error.reason})

    async def _end(self, lease: Lease, change: Callable[[Job], Job]) -> None:
        self._metrics.job_finished(await self._write(lease, change))

    async def _write(self, lease: Lease, change: Callable[[Job], Job]) -> Job:
        """Change a job, again and again while the store is away and the lease lasts."""
        job, until = lease.job, self._clock.now() + LEASE
        while True:
            try:
                return await asyncio.to_thread(self._jobs.update, job.tenant, job.id, change, token=lease.token)
            except (Unavailable, ResourceExhausted) as error:
                if self._clock.now() > until:
                    raise
                log.warning("a job cannot be written", extra={"job": job.name, "cause": error.message})
                await asyncio.sleep(RETRY_SECONDS)

    async def _put_back(self, lease: Lease) -> None:
        """Spare the next service the wait until the lease has run out, and the job an interruption."""
        job = lease.job
        try:
            await asyncio.to_thread(self._jobs.update, job.tenant, job.id, Job.put_back, token=lease.token)
        except (Error, StaleLeaseError) as error:
            log.info("a job could not be put back", extra={"job": job.name, "cause": str(error)})

    async def _runner_lost(self, lease: Lease, lost: RunnerLostError) -> None:
        job = lease.job
        log.warning("runner lost", extra={"job": job.name, "attempt": job.attempt, "cause": str(lost)})
        if job.lost_runners + 1 >= MAX_LOST_RUNNERS:
            text = f"{MAX_LOST_RUNNERS} runners were lost on this job, so it is not tried again; the last: {lost}"
            reason = Reason.RUNNER_UNAVAILABLE if lost.reason == "start" else Reason.RUNNER_LOST
            await self._fail(lease, Unavailable(reason, text))
            return
        await self._write(lease, lambda job: job.requeue())
        self._changes.queued()


class _Latest:
    """The newest progress that a runner has told, and the rate of its stage."""

    def __init__(self, clock: Clock) -> None:
        self.value = Progress()
        self._clock = clock
        self._since = (clock.now(), 0)

    def set(self, progress: Progress) -> None:
        now = self._clock.now()
        if progress.stage != self.value.stage or progress.done < self.value.done:
            self._since = (now, progress.done)  # another stage, or the same one over again
        started, done = self._since
        seconds = (now - started).total_seconds()
        rate = (progress.done - done) / seconds if seconds > 0 else 0.0
        self.value = replace(progress, rate=rate)


def _deadline(job: Job) -> datetime | None:
    if not job.timeout_seconds or job.start_time is None:
        return None
    return job.start_time + timedelta(seconds=job.timeout_seconds)
