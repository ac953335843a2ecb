# Generated from _async/group_jobs.py by tools/unasync.py: change that file, then run it with `generate`.
"""Jobs about groups of training rows and about two models: read what they found."""

from typing import Any, cast

from undue import _convert_groups, _convert_jobs
from undue._compare_results import CompareResult
from undue._errors import Unavailable
from undue._group_results import GroupInfluenceResult
from undue._grpc_blocking import sleep
from undue._retry import FOLLOW
from undue.v1 import jobs_pb2

from .connection import Connection, all_pages
from .instances import Instances
from .jobs import Job


class GroupInfluenceJob(Job):
    """A job that shares the influence on some predictions among groups of training rows."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> GroupInfluenceResult:
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
        spec = self._message.group_influence
        test, train = (Instances(self._connection, name) for name in (spec.test, spec.train))
        request = jobs_pb2.ListExplanationsRequest(parent=self.name)
        pages = all_pages(self._connection, self._connection.jobs.ListExplanations, request, "explanations")
        explained = [_convert_jobs.explanation(cast(jobs_pb2.Explanation, each), test, train) for each in pages]
        wanted = jobs_pb2.ReadGroupInfluencesRequest(name=self.name)
        found = _streamed(self._connection, self._connection.jobs.ReadGroupInfluences, wanted)
        told = _convert_jobs.diagnostics(self._message.diagnostics)
        return _convert_groups.group_result(explained, found, told, train)


class CompareJob(Job):
    """A job that holds what one or two models say of the same test rows against each other and against what is near."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> CompareResult:
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
        wanted = jobs_pb2.ReadRowComparisonsRequest(name=self.name)
        found = _streamed(self._connection, self._connection.jobs.ReadRowComparisons, wanted)
        train = Instances(self._connection, self._message.compare.train)
        return _convert_groups.compare_result(found, _convert_jobs.diagnostics(self._message.diagnostics), train)


def _streamed(connection: Connection, method: Any, request: Any) -> list[Any]:
    """Return a whole stream; a broken one is read again from the start."""
    pauses = FOLLOW.pauses()
    while True:
        try:
            return list(connection.download(method, request))
        except Unavailable as error:
            pause = next(pauses, None)
            if pause is None:
                raise error
            sleep(pause)
