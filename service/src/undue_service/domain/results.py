"""What an influence job found, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Array = Any
"""One of NumPy's, which the domain does not import."""
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


@dataclass(frozen=True, slots=True)
class Instances:
    """Some rows of a data set, as a model sees them."""

    rows: tuple[int, ...]
    """Row numbers, in the order asked for."""
    inputs: Mapping[str, Array]
    """(B, …) each."""
    targets: Array | None
    weights: Array | None
    ids: tuple[str, ...]
    """Where the data set has none, the row numbers."""
    groups: Mapping[str, tuple[str, ...]]

    def part(self, start: int, stop: int) -> "Instances":
        """Return some of them, by their places."""
        at = slice(start, stop)
        return Instances(
            rows=self.rows[at],
            inputs={name: array[at] for name, array in self.inputs.items()},
            targets=None if self.targets is None else self.targets[at],
            weights=None if self.weights is None else self.weights[at],
            ids=self.ids[at],
            groups={name: values[at] for name, values in self.groups.items()},
        )

    @property
    def row_bytes(self) -> int:
        """Size of one row's inputs."""
        return sum(array[:1].nbytes for array in self.inputs.values())
