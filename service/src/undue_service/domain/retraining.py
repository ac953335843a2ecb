"""Job `retrain`: what really changes without some training rows, or with others in their place."""

from dataclasses import dataclass
from typing import Literal

from .choices import Measurement, Start
from .edits import EditSpec


@dataclass(frozen=True, slots=True)
class Retrain:
    """Job: measure what changes when training rows are removed or edited, by fitting the model again."""

    model: str
    train: str
    test: str
    without: tuple[tuple[int, ...], ...] = ()
    """One fit for each: the training rows that it goes without."""
    counterfactuals: tuple[EditSpec, ...] = ()
    """One fit for each, after those."""
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    measurement: Measurement = "loss"
    tolerance: float | None = None
    """‖∇R‖ at which a fit has converged; None is 1e-10."""
    max_iterations: int | None = None
    """Of one fit; None is 100."""
    start: Start | None = None
    """As in FidelitySettings; of a model that is no linear head."""
    seeds: int = 1
    """Retrainings of each set, averaged; of a model that is no linear head."""
    kind: Literal["retrain"] = "retrain"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are measured, of a test set of so many rows."""
        return len(self.rows) or of_set

    def edit(self, index: int) -> EditSpec | None:
        """Return what the counterfactual at a position edits; None where it only leaves rows out."""
        place = index - len(self.without)
        return self.counterfactuals[place] if place >= 0 else None
