"""What waits for an explanation, and how much of it is asked together."""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
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


def fit(answers: Mapping[int, Answer], failures: Collection[int], batch: Sequence[Asked], datasets: int) -> bool:
    """Return whether these are the answers to a batch, but for the calls that failed, from so many data sets."""
    return (
        answers.keys() | set(failures) == set(range(len(batch)))
        and not answers.keys() & set(failures)
        and all(len(one.explanations) == batch[place].rows for place, one in answers.items())
        and all(0 <= part.dataset < datasets for one in answers.values() for part in one.instances)
    )


def row_bytes(answer: Answer) -> float:
    """Return the bytes of the instance of a row, 0 where there is none."""
    for part in answer.instances:
        return sum(int(array.nbytes) for array in part.inputs.values()) / len(part.rows)
    return 0.0
