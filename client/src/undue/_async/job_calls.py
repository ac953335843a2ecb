"""What every call that queues a job does."""

import uuid

from undue.v1 import jobs_pb2

from .connection import AsyncConnection
from .kinds import AnyAsyncJob, job_of


class AsyncJobCalls:
    """What queues jobs of a service."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def _create(self, job: jobs_pb2.Job) -> AnyAsyncJob:
        request = jobs_pb2.CreateJobRequest(job=job, request_id=str(uuid.uuid4()))
        created = await self._connection.call(self._connection.jobs.CreateJob, request)
        return job_of(self._connection, created)
