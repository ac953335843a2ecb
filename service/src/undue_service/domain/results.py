"""What a job found, as values."""

from collections.abc import Iterator, Mapping
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
    """What was measured without some training rows, or with edited ones."""

    index: int
    """Position among the job's `without`, which its `counterfactuals` follow."""
    without: tuple[int, ...]
    changes: tuple[float, ...]
    """Cost of the fit minus cost of the fit on all rows as they are, for each test row."""
    gradient_norm: float
    """‖∇R‖ of the fit at its end."""
    iterations: int
    """Steps: of Newton's method, or of the recipe's optimiser."""
    replaced: tuple[int, ...] = ()
    relabelled: tuple[int, ...] = ()
    reweighted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was predicted of one retraining, and what was measured."""

    index: int
    """Position among the retrainings."""
    without: tuple[int, ...]
    """loo: the training row that was removed."""
    subset: tuple[int, ...]
    """lds: the training rows that it was trained on."""
    stratum: int | None
    """loo: the stratum that the row was drawn from; None for one drawn from all."""
    predicted: tuple[float, ...]
    """For each test row: loo, the score; lds, the change of the cost but for a constant of the test row."""
    measured: tuple[float, ...]
    """For each test row: loo, the change of its cost; lds, its cost."""


@dataclass(frozen=True, slots=True)
class LeverageBlock:
    """What some consecutive training rows do to a linear head."""

    first: int
    ids: tuple[str, ...]
    leverage: Array
    """(B,)."""
    cooks_distance: Array
    """(B,)."""
    dfbeta: Array | None
    """(B, P), where it was kept."""
    coefficients: tuple[str, ...]
    """P names, where dfbeta was kept; in the first block only."""
    effective_parameters: float
    """The sum of all leverages."""
    variance: float
    """s², in units of which Cook's distance is."""


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

    def parts(self, most: int) -> Iterator["Instances"]:
        """Yield all of them in order, at most `most` bytes at a time; a row that has more comes by itself."""
        start = held = 0
        for place, size in enumerate(self._sizes()):
            if place > start and held + size > most:
                yield self.part(start, place)
                start, held = place, 0
            held += size
        yield self.part(start, len(self.rows))

    def _sizes(self) -> list[int]:
        """Return the bytes of each row's numbers and texts, and what a message adds to a text and to a row number."""
        arrays = (*self.inputs.values(), self.targets, self.weights)
        numbers = _ROW_BYTES + sum(array[:1].nbytes for array in arrays if array is not None)
        texts = zip(self.ids, *self.groups.values(), strict=True)
        return [numbers + sum(len(text.encode()) + 1 for text in row) for row in texts]


@dataclass(frozen=True, slots=True)
class Questions:
    """The rows of one call of Explain."""

    inputs: Mapping[str, Array]
    """(B, …) each."""
    targets: Array | None


@dataclass(frozen=True, slots=True)
class IndexedRows:
    """Some rows of one of the data sets that an index holds, as a model sees them."""

    dataset: int
    """Its place among the index's data sets."""
    rows: tuple[int, ...]
    """Their numbers in the index."""
    dataset_rows: tuple[int, ...]
    """Their numbers in the data set."""
    inputs: Mapping[str, Array]
    """(B, …) each."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call of Explain gets."""

    explanations: tuple[Explanation, ...]
    """One for each of its rows; `row` counts those, and `id` is empty."""
    instances: tuple[IndexedRows, ...]
    """Of every row that is listed, each once; none where they were not asked for."""


_ROW_BYTES = 5
"""A row number in a message."""
