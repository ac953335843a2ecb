"""What an influence job found, as values."""

from dataclasses import dataclass

Value = int | float | tuple[float, ...]
"""A class, a number, or several numbers."""


@dataclass(frozen=True, slots=True)
class ScoredExample:
    """A training row with its score."""

    row: int
    id: str
    score: float
    target: Value
    prediction: Value
    loss: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the model said what it said of one test row."""

    row: int
    id: str
    prediction: Value
    target: Value
    loss: float
    helpful: tuple[ScoredExample, ...]
    harmful: tuple[ScoredExample, ...]
