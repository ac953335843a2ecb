"""Ports: processes that run tasks."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from undue_service.domain.jobs import Progress
from undue_service.domain.reports import TaskResult
from undue_service.domain.results import Answer, Questions
from undue_service.domain.tasks import ExplainCall, Task

NOWHERE = Path(os.devnull)
"""No folder: nothing can be written below it."""


@dataclass(frozen=True, slots=True)
class Work:
    """A task for a runner."""

    tenant: str
    id: str
    task: Task
    artifacts: Mapping[str, Path]
    """Every artifact that the task may read."""
    scratch: Path
    """Where it leaves what it produces; NOWHERE for a task that leaves no file."""
    lane: Literal["batch", "serve"] = "batch"
    workspace: Path | None = None
    """A folder that outlives the attempt, for what a later one can go on from."""
    attachment: bytes = b""
    """Arrays, as safetensors, for a task that is too short-lived for files."""
    slot: int = 0
    """Of the serve lane, whose runners hold things: which device's runner, by its place. Batch work takes any."""


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """One runner process."""

    pid: int
    device: str
    lane: str
    state: Literal["starting", "idle", "busy"]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What the pool is made of."""

    devices: tuple[str, ...]
    runners: tuple[RunnerStatus, ...]
    libraries: Mapping[str, str]
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    """Device to the most memory that one runner has held there."""
    resident_bytes: int = 0
    """What the indexes that serve runners hold take."""


class RunnerLostError(Exception):
    """The runner died, hung up or spoke nonsense. The work can be given to another."""

    def __init__(self, message: str, reason: Literal["died", "nonsense", "silent", "start"]) -> None:
        super().__init__(message)
        self.reason = reason


class WorkerPool(Protocol):
    """Processes that run tasks, one at a time on each slot and lane."""

    async def run(self, work: Work, on_progress: Callable[[Progress], None]) -> TaskResult:
        """Run one task to its end. Cancelling the call kills the runner.

        Raises:
            Error: whatever typed error the task ended with.
            RunnerLostError: the process was lost.
        """

    def status(self) -> PoolStatus:
        """Return what the pool is made of."""

    async def close(self) -> None:
        """End every runner."""


class Attachments(Protocol):
    """Arrays that travel beside a task and its result."""

    def encode_questions(self, questions: Sequence[Questions], /) -> bytes:
        """Return the rows of a batch of calls."""

    def decode_answers(self, data: bytes, calls: Sequence[ExplainCall], /) -> dict[int, Answer]:
        """Return the answers of a batch by the places of their calls.

        Raises:
            ValueError: these are not answers of such calls.
        """
