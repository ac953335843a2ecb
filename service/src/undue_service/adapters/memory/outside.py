"""What else the use cases need from outside, in memory."""

from collections.abc import Mapping

from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.jobs import Job
from undue_service.domain.specs import FileFormat, LocatedFile


class MemoryLocator:
    """SourceLocator over files that exist only here."""

    def __init__(self, files: Mapping[str, tuple[LocatedFile, ...]] | None = None) -> None:
        self._files = dict(files or {})

    def locate(self, uri: str, file_format: FileFormat) -> tuple[LocatedFile, ...]:  # noqa: ARG002  the port's signature
        """See SourceLocator."""
        if uri not in self._files:
            raise NotFound(Reason.URI_NOT_FOUND, f"{uri!r} names no file that is there")
        return self._files[uri]


class NoMetrics:
    """Metrics and ExplainMetrics that nobody reads."""

    def call_started(self, method: str, kind: str) -> None:
        """See Metrics."""

    def call_handled(self, method: str, kind: str, code: str, seconds: float) -> None:
        """See Metrics."""

    def job_submitted(self, kind: str) -> None:
        """See Metrics."""

    def job_finished(self, job: Job) -> None:
        """See Metrics."""

    def runner_lost(self, reason: str) -> None:
        """See Metrics."""

    def explain_stage(self, stage: str, seconds: float) -> None:
        """See ExplainMetrics."""

    def explain_batch(self, calls: int) -> None:
        """See ExplainMetrics."""
