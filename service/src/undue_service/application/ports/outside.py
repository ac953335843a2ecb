"""Ports: who counts, and what time it is."""

from datetime import datetime
from typing import Protocol

from undue_service.domain.jobs import Job


class Metrics(Protocol):
    """What is counted and timed. Its methods may be called from any thread."""

    def call_started(self, method: str, kind: str) -> None:
        """Count a call: full name of its method, and unary, client_stream or server_stream."""

    def call_handled(self, method: str, kind: str, code: str, seconds: float) -> None:
        """Count and time a call that has ended."""

    def job_submitted(self, kind: str) -> None:
        """Count a job."""

    def job_finished(self, job: Job) -> None:
        """Count and time a job that has ended."""

    def runner_lost(self, reason: str) -> None:
        """Count a runner that will be replaced."""


class ExplainMetrics(Protocol):
    """What is timed of explanations."""

    def explain_stage(self, stage: str, seconds: float) -> None:
        """Time a stage: queue and total of each call; gradient, screen, rescore and instances of each batch."""

    def explain_batch(self, calls: int) -> None:
        """Count the calls that were answered together."""


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
