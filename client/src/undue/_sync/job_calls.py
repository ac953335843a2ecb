# Generated from _async/job_calls.py by tools/unasync.py: change that file, then run it with `generate`.
"""What every call that queues a job does."""

import uuid

from undue.v1 import jobs_pb2

from .connection import Connection
from .kinds import AnyJob, job_of


class JobCalls:
    """What queues jobs of a service."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _create(self, job: jobs_pb2.Job) -> AnyJob:
        request = jobs_pb2.CreateJobRequest(job=job, request_id=str(uuid.uuid4()))
        created = self._connection.call(self._connection.jobs.CreateJob, request)
        return job_of(self._connection, created)
