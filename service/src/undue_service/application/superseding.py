"""Let go of what nothing needs any more: workspaces of jobs that have ended, files of an index that newer ones replace.

A row that was erased is gone when the files that held it are: that must not wait for the hourly sweep.
"""

import logging

from undue_service.domain.errors import Error, NotFound
from undue_service.domain.index_jobs import IndexJob
from undue_service.domain.indexes import Index
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.names import parse_token
from undue_service.domain.specs import ResumedJob

from .ports import IndexStore, JobStore, Staging
from .retention import Retention

log = logging.getLogger(__name__)


class Superseding:
    """What follows when a job that has a workspace has ended, or an index is deleted."""

    def __init__(self, jobs: JobStore, indexes: IndexStore, staging: Staging, retention: Retention) -> None:
        self._jobs = jobs
        self._indexes = indexes
        self._staging = staging
        self._retention = retention

    def attempted(self, job: Job) -> None:
        """Tidy up after an attempt at a job that has a workspace; nothing where another may go on from what it left."""
        if not isinstance(job.spec, ResumedJob):
            return
        try:
            state = self._state(job)
            if state is None or state.ended:
                self._staging.discard_workspace(job.id)
            if state is JobState.SUCCEEDED and isinstance(job.spec, IndexJob):
                self._release_replaced(self._indexes.get(job.tenant, parse_token("index", job.spec.index, "indexes")))
        except Error as error:  # the job has ended all the same; a sweep finds what is left
            log.warning("replaced files stay for now", extra={"job": job.name, "cause": error.message})

    def deleted(self, index: Index) -> None:
        """Let go of all that a deleted index had."""
        for job in index.jobs:
            self._staging.discard_workspace(job.id)
        digests = {digest for job in index.jobs for digest in job.results.values()}
        try:
            self._retention.release(index.tenant, digests, index.create_time)
        except Error as error:
            log.warning("deleted bytes cannot be removed yet", extra={"reason": error.reason, "cause": error.message})

    def _state(self, job: Job) -> JobState | None:
        try:
            return self._jobs.state(job.tenant, job.id)
        except NotFound:  # it was deleted, by itself or with its index
            return None

    def _release_replaced(self, index: Index) -> None:
        assert index.current is not None  # noqa: S101  one of its jobs has succeeded
        replaced = {digest for job in index.jobs for digest in job.results.values()}
        replaced -= set(index.current.results.values())
        self._retention.release(index.tenant, replaced, index.create_time)
