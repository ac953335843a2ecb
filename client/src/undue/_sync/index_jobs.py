# Generated from _async/index_jobs.py by tools/unasync.py: change that file, then run it with `generate`.
"""Jobs that build and change indexes."""

import warnings

from undue import _convert_indexes
from undue._errors import ModelWarning
from undue._indexes import Index
from undue.v1 import indexes_pb2

from .jobs import Job


class IndexJob(Job):
    """A job that builds, extends or compacts an index."""

    def result(self, timeout: float | None = None, progress: bool | None = None) -> Index:
        """Wait for the job and return the index as it is then.

        That it should be built anew, its staleness being 0.1 or more, is also issued as ModelWarning.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            NotFound: the index has been deleted.
            Unavailable: the service stayed away.
        """
        self.wait(timeout, progress)
        name = getattr(self._message, self.kind).index
        request = indexes_pb2.GetIndexRequest(name=name)
        index = _convert_indexes.index(self._connection.call(self._connection.indexes.GetIndex, request))
        if index.report is not None and index.report.staleness >= _convert_indexes.STALE:
            warnings.warn(f"{index.name}: {index.warnings[0]}", ModelWarning, stacklevel=2)
        return index
