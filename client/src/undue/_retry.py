"""How often and how fast a call is made again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential pauses with jitter, so that many clients do not come back at the same moment."""

    retries: int
    first: float
    """Mean of the first pause in seconds; each further one is twice as long."""
    longest: float

    def pauses(self) -> Iterator[float]:
        """Yield the pause before each further attempt, in seconds."""
        for attempt in range(self.retries):
            yield min(self.longest, self.first * 2**attempt) * random.uniform(0.5, 1.5)  # noqa: S311 (no secret)


CALL = Backoff(retries=5, first=0.1, longest=5.0)
"""Calls: about three seconds, then the caller hears of it."""

FOLLOW = Backoff(retries=15, first=0.1, longest=5.0)
"""Watches, uploads and downloads, counted since they last moved: about a minute, so that a service may restart."""
