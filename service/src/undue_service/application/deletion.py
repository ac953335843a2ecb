"""Delete models, data sets and jobs, and say who still names them."""

import logging
from collections.abc import Iterable
from datetime import datetime

from undue_service.domain.errors import Error, FailedPrecondition, Reason
from undue_service.domain.etags import check_etag
from undue_service.domain.index_jobs import IndexBuild, IndexCompact, IndexExtend
from undue_service.domain.jobs import Job
from undue_service.domain.names import Collection, parse_token, parse_version
from undue_service.domain.resources import Registration
from undue_service.domain.validations import DatasetValidation, ModelValidation

from .changes import Changes
from .ports import Clock, JobStore, Metrics, Registry
from .retention import Retention

log = logging.getLogger(__name__)

LISTED_USERS = 10


class Deletions:
    """Use cases of DeleteModel, DeleteDataset and DeleteJob."""

    def __init__(
        self,
        registry: Registry,
        jobs: JobStore,
        retention: Retention,
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._retention = retention
        self._jobs = jobs
        self._changes = changes
        self._metrics = metrics
        self._clock = clock

    def registration(self, tenant: str, collection: Collection, name: str, etag: str, *, force: bool) -> None:
        """Delete one version, or all of a name without one. Its own validation is cancelled with it.

        With `force`, jobs that need it and have not ended are cancelled; those that have ended keep their results.
        Indexes that are made of it explain nothing any more.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
            FailedPrecondition: RESOURCE_IN_USE naming who uses it, without `force`; ETAG_MISMATCH.
        """
        resource_id, version = parse_version("name", name, collection)

        def check(found: tuple[Registration, ...], users: tuple[str, ...]) -> None:
            # The etag of a name without a version is that of its newest, as reading it gave.
            check_etag(name, etag, found[-1].etag)
            if users and not force:
                raise _in_use(name, users)

        gone = self._registry.delete(tenant, collection, resource_id, version, check, self._clock.now())
        for job in gone.cancelled:
            self._ended(job)
        for one in gone.registrations:
            if not one.validation.state.ended:
                self._ended(one.validation.cancel(self._clock.now()))
        for one in gone.registrations:
            self._release(tenant, one.spec.digests(), one.create_time)

    def job(self, tenant: str, name: str, etag: str, *, force: bool) -> None:
        """Delete a job and its result.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
            FailedPrecondition: JOB_NOT_FINISHED without `force`; RESOURCE_IN_USE for a validation or a job of an
                index, which goes with it; ETAG_MISMATCH.
        """

        def check(job: Job) -> None:
            check_etag(name, etag, job.etag)
            match job.spec:
                case ModelValidation(model=validated) | DatasetValidation(dataset=validated):
                    text = f"{name} is the validation of {validated} and goes with it: delete that"
                    raise FailedPrecondition(Reason.RESOURCE_IN_USE, text, metadata={"users": validated, "count": "1"})
                case IndexBuild(index=changed) | IndexExtend(index=changed) | IndexCompact(index=changed):
                    text = f"{name} is a job of {changed} and goes with it: delete that"
                    raise FailedPrecondition(Reason.RESOURCE_IN_USE, text, metadata={"users": changed, "count": "1"})
            if not job.state.ended and not force:
                text = f"{name} is {job.state}: cancel it first, or delete it with force"
                raise FailedPrecondition(Reason.JOB_NOT_FINISHED, text)

        job = self._jobs.delete(tenant, parse_token("name", name, "jobs"), check)
        if not job.state.ended:
            self._ended(job.cancel(self._clock.now()))
        self._release(tenant, job.results.values(), job.create_time)

    def _release(self, tenant: str, digests: Iterable[str], used_before: datetime) -> None:
        try:
            self._retention.release(tenant, digests, used_before)
        except Error as error:  # it is deleted all the same; a sweep finds the bytes
            log.warning("deleted bytes cannot be removed yet", extra={"reason": error.reason, "cause": error.message})

    def _ended(self, job: Job) -> None:
        self._metrics.job_finished(job)
        self._changes.changed(job.id)


def _in_use(name: str, users: tuple[str, ...]) -> FailedPrecondition:
    users = tuple(sorted(users, key=lambda user: user.startswith("jobs/")))  # others first: there are fewer
    listed = ", ".join(users[:LISTED_USERS])
    more = f" and {len(users) - LISTED_USERS} more" if len(users) > LISTED_USERS else ""
    indexes = ", and indexes that can only be deleted" if any(user.startswith("indexes/") for user in users) else ""
    text = (
        f"{name} is named by {listed}{more}: delete those first, or use force, which cancels jobs that still need it "
        f"and leaves the others{indexes}"
    )
    # A trailer cuts values at 200 bytes: only whole names are worth sending.
    fit = [name for place, name in enumerate(users[:LISTED_USERS]) if len(",".join(users[: place + 1])) <= 200]
    metadata = {"users": ",".join(fit), "count": str(len(users))}
    return FailedPrecondition(Reason.RESOURCE_IN_USE, text, metadata=metadata)
