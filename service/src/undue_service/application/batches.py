"""What waits for an explanation, and how much of it is asked together."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from undue_service.domain.indexes import Index
from undue_service.domain.reports import ExplainReport
from undue_service.domain.results import Answer, Questions
from undue_service.domain.tasks import ExplainCall

Explained = tuple[Answer, Index, ExplainReport]

BATCH_CALLS = 64
BATCH_ROWS = 256
BATCH_BYTES = 16 << 20
"""Of the rows that are asked about; of the instances that come back, likewise."""


@dataclass(eq=False, slots=True)
class Asked:
    """A call that waits."""

    questions: Questions
    call: ExplainCall
    answer: "asyncio.Future[Explained]"
    """Cancelled where the caller has gone away."""
    since: float = field(default_factory=time.perf_counter)
    losses: int = 0
    """Runners that were lost while they worked on it."""
    alone: bool = False
    """Whether it is asked by itself: what it was asked together with went wrong."""

    @property
    def rows(self) -> int:
        """How many rows it asks about."""
        return len(next(iter(self.questions.inputs.values())))

    @property
    def size(self) -> int:
        """Bytes of its rows."""
        arrays = (*self.questions.inputs.values(), self.questions.targets)
        return sum(int(one.nbytes) for one in arrays if one is not None)

    def instance_bytes(self, row_bytes: float) -> float:
        """Return the most bytes that the instances of its answer have, where one has `row_bytes`."""
        return 2 * self.call.top_k * self.rows * row_bytes if self.call.with_instances else 0.0


def take(waiting: deque[Asked], row_bytes: float) -> list[Asked]:
    """Take the calls that are asked together next: the first, and those after it that go with it.

    A guarantee costs a scan of its own, so calls that want one do not wait in a batch for calls that do not, nor the
    other way round.
    """
    batch: list[Asked] = []
    rows = size = 0
    instances = 0.0
    while waiting:
        one = waiting[0]
        if one.answer.done():  # its caller has gone away
            waiting.popleft()
            continue
        rows, size, instances = rows + one.rows, size + one.size, instances + one.instance_bytes(row_bytes)
        fits = rows <= BATCH_ROWS and size <= BATCH_BYTES and instances <= BATCH_BYTES
        together = batch and not one.alone and not batch[0].alone and one.call.exact == batch[0].call.exact
        if batch and not (fits and together and len(batch) < BATCH_CALLS):
            break
        batch.append(waiting.popleft())
    return batch
