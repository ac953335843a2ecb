"""Rows as the results of jobs name them."""

from undue_service.datasets.source import DatasetSource
from undue_service.domain.results import ScoredExample, Value
from undue_service.engine.queries import RowFacts
from undue_service.wire.examples import values


class Examples:
    """What is known of some rows of a data set, by their numbers."""

    def __init__(self, facts: RowFacts, source: DatasetSource) -> None:
        self._places = {row: place for place, row in enumerate(facts.rows.tolist())}
        self._ids = source.ids(facts.rows.tolist())
        self._predictions, self._targets = values(facts.predictions), values(facts.targets)
        self._losses = facts.losses.tolist()

    def scored(self, row: int, score: float) -> ScoredExample:
        """Return a row with its score."""
        at = self._places[row]
        return ScoredExample(row, self._ids[at], score, self._targets[at], self._predictions[at], self._losses[at])

    def described(self, row: int) -> tuple[str, Value, Value, float]:
        """Return the id, the prediction, the target and the loss of a row."""
        at = self._places[row]
        return self._ids[at], self._predictions[at], self._targets[at], self._losses[at]
