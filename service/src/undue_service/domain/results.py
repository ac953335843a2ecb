"""What an influence job found, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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


class Values(Protocol):
    """An array; NumPy's are ones."""

    @property
    def dtype(self) -> Any:
        """Element type, whose text is NumPy's name of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis; the first is rows."""

    def tobytes(self) -> bytes:
        """Return the values in C order; on disk and on the wire they are little-endian."""


@dataclass(frozen=True, slots=True)
class Instances:
    """Some rows of a data set, as the model sees them."""

    rows: tuple[int, ...]
    """Row numbers, in the order asked for."""
    inputs: Mapping[str, Values]
    """By name, one entry a row."""
    targets: Values | None
    weights: Values | None
    ids: tuple[str, ...]
    """Where the data set has none, the row numbers."""
    groups: Mapping[str, tuple[str, ...]]
    """By name, what each row has."""
