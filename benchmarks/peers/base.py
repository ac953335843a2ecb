"""The seam between the harness and what it measures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from numpy.typing import NDArray

from benchmarks.workloads.base import Task

Scores = NDArray
"""Positive where removing the training row raises the test row's loss."""


class Contender(Protocol):
    """One method of one library on one trained model; building it is not timed."""

    def factors(self) -> None:
        """Prepare what no query changes."""

    def pairs(self) -> Scores:
        """Score every training row for every test row, (m, n)."""

    def one_query(self, t: int) -> Scores:
        """Score every training row for test row t, (n,)."""


@dataclass(frozen=True)
class Entry:
    """A row of a table, before it is measured."""

    make: Callable[[Task], Contender]
    note: str
    """The settings that a reader needs."""
    slow: bool = False
    """Takes about half a minute a model: fewer repeats."""
    is_removal: bool = True
    """Whether scores come in the unit of the loss, so that their size can be compared too."""
    query_is_pairs: bool = False
    """Whether one query costs what all do, so that it is measured no more often than they are."""
    query_tolerance: float = 1e-2
    """How far max|a − b| / max|b| a query alone may lie from the same among all."""
    device: Literal["cpu", "any"] = "cpu"


class Unavailable(Exception):
    """A contender that cannot be run here, and why."""
