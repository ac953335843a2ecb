"""Jobs that look for mislabelled training rows."""

from typing import cast

from undue import _convert_jobs, _convert_mislabels
from undue._errors import Unavailable
from undue._grpc_aio import sleep
from undue._mislabels_results import MislabelsResult, SuspectsResult
from undue._retry import FOLLOW
from undue.v1 import jobs_pb2, mislabels_pb2

from .connection import AsyncConnection, all_pages
from .instances import AsyncInstances
from .jobs import AsyncJob

_PAGE_ROWS = 1000


class AsyncMislabelsJob(AsyncJob):
    """A job that says how well rankings find mislabelled training rows."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> MislabelsResult:
        """Wait for the job and return what it found.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            Unavailable: the service stayed away.
        """
        await self.wait(timeout, progress)
        pauses = FOLLOW.pauses()
        while True:
            try:
                request = mislabels_pb2.ReadMislabelCurvesRequest(name=self.name)
                stream = self._connection.download(self._connection.jobs.ReadMislabelCurves, request)
                curves = [curve async for curve in stream]
            except Unavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise error
                await sleep(pause)
            else:
                return _convert_mislabels.mislabels_result(
                    self.name, curves, _convert_jobs.diagnostics(self._message.diagnostics)
                )


class AsyncSuspectsJob(AsyncJob):
    """A job that lists the training rows whose labels look wrong."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> SuspectsResult:
        """Wait for the job and return what it found.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            Unavailable: the service stayed away.
        """
        await self.wait(timeout, progress)
        request = mislabels_pb2.ListSuspectsRequest(parent=self.name, page_size=_PAGE_ROWS)
        pages = all_pages(self._connection, self._connection.jobs.ListSuspects, request, "suspects")
        found = [cast(mislabels_pb2.Suspect, each) async for each in pages]
        train = AsyncInstances(self._connection, self._message.mislabels.train)
        return _convert_mislabels.suspects_result(found, train, _convert_jobs.diagnostics(self._message.diagnostics))


def mislabels_job_of(connection: AsyncConnection, message: jobs_pb2.Job) -> AsyncMislabelsJob | AsyncSuspectsJob:
    """Return the object for a mislabels job, by what it was asked."""
    if message.mislabels.HasField("suspects"):
        return AsyncSuspectsJob(connection, message)
    return AsyncMislabelsJob(connection, message)
