"""Job `group_influence`: groups of training rows that moved some predictions, and what reweighting them does."""

from dataclasses import dataclass
from typing import Literal

from .choices import Measurement, Normalization, Start

REWEIGHTED_GROUPS = 3
"""Of which the effect is measured where none are named: those with the most excess."""
REWEIGHTED_FACTORS = (0.0, 2.0)
"""Of theirs: removed, and counted twice."""


@dataclass(frozen=True, slots=True)
class Reweighting:
    """A group whose rows' weights are multiplied."""

    column: str
    group: str
    factor: float
    """0 removes the group."""


@dataclass(frozen=True, slots=True)
class GroupInfluence:
    """Job: attribute the mean cost of some test rows to groups of training rows, and measure what reweighting does."""

    model: str
    train: str
    test: str
    rows: tuple[int, ...]
    """The test rows whose predictions are wrong or surprising."""
    by: tuple[str, ...]
    """Columns of groups of `train`."""
    reweight: tuple[Reweighting, ...] = ()
    """Whose effect is measured by retraining."""
    reweight_top: int = REWEIGHTED_GROUPS
    """Groups with the most excess that are reweighted by 0 and 2, where `reweight` names none; 0 retrains nothing."""
    method: str = ""
    measurement: Measurement = "loss"
    damping: float | None = None
    top_k: int = 10
    """Most influential rows a side, and of each leading group."""
    leverage_correction: bool | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    parameters: tuple[str, ...] = ()
    rank: int | None = None
    normalization: Normalization | None = None
    ensemble: bool = False
    bootstrap: int = 1000
    """Resamples behind each interval."""
    start: Start | None = None
    """Of retraining, as in FidelitySettings."""
    seeds: int = 1
    """Retrainings of each, averaged; of a model that is no linear head."""
    seed: int = 0
    kind: Literal["group_influence"] = "group_influence"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are read, of a test set of so many rows: all, where groups are retrained."""
        return of_set if self.retrains else len(self.rows) or of_set

    @property
    def retrains(self) -> int:
        """Return how many groups are retrained with another weight."""
        return len(self.reweight) or self.reweight_top * len(REWEIGHTED_FACTORS)
