# Generated from _async/mislabel_jobs.py by tools/unasync.py: change that file, then run it with `generate`.
"""Jobs that look for mislabelled training rows."""

from typing import cast

from undue import _convert_jobs, _convert_mislabels
from undue._errors import Unavailable
from undue._grpc_blocking import sleep
from undue._mislabels_results import MislabelsResult, SuspectsResult
from undue._retry import FOLLOW
from undue.v1 import jobs_pb2, mislabels_pb2

from .connection import Connection, all_pages
from .instances import Instances
from .jobs import Job

_PAGE_ROWS = 1000


class MislabelsJob(Job):
    """A job that says how well rankings find mislabelled training rows."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> MislabelsResult:
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
        self.wait(timeout, progress)
        pauses = FOLLOW.pauses()
        while True:
            try:
                request = mislabels_pb2.ReadMislabelCurvesRequest(name=self.name)
                stream = self._connection.download(self._connection.jobs.ReadMislabelCurves, request)
                curves = list(stream)
            except Unavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise error
                sleep(pause)
            else:
                return _convert_mislabels.mislabels_result(
                    self.name, curves, _convert_jobs.diagnostics(self._message.diagnostics)
                )


class SuspectsJob(Job):
    """A job that lists the training rows whose labels look wrong."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> SuspectsResult:
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
        self.wait(timeout, progress)
        request = mislabels_pb2.ListSuspectsRequest(parent=self.name, page_size=_PAGE_ROWS)
        pages = all_pages(self._connection, self._connection.jobs.ListSuspects, request, "suspects")
        found = [cast(mislabels_pb2.Suspect, each) for each in pages]
        train = Instances(self._connection, self._message.mislabels.train)
        return _convert_mislabels.suspects_result(found, train, _convert_jobs.diagnostics(self._message.diagnostics))


def mislabels_job_of(connection: Connection, message: jobs_pb2.Job) -> MislabelsJob | SuspectsJob:
    """Return the object for a mislabels job, by what it was asked."""
    if message.mislabels.HasField("suspects"):
        return SuspectsJob(connection, message)
    return MislabelsJob(connection, message)
