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
    """Why the model said what it said of one test row, or of several together."""

    row: int
    """Of several, the first."""
    id: str
    prediction: Value | None
    target: Value | None
    loss: float
    """Of several, the mean."""
    helpful: tuple[ScoredExample, ...]
    harmful: tuple[ScoredExample, ...]
    rows: tuple[int, ...] = ()
    """The rows that are explained together; none where each is explained by itself."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What was measured without some training rows."""

    index: int
    """Position among the job's `without`."""
    without: tuple[int, ...]
    changes: tuple[float, ...]
    """Cost without them minus cost with them, for each test row."""
    gradient_norm: float
    """‖∇R‖ of the fit at its end."""
    iterations: int
