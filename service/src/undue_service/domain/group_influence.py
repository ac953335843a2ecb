"""Job `group_influence`: which groups of training rows moved some predictions, and what reweighting them does."""

from dataclasses import dataclass
from typing import Literal

from .reports import Interval
from .results import ScoredExample

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
    measurement: Literal["loss", "logit", "margin"] = "loss"
    damping: float | None = None
    top_k: int = 10
    """Most influential rows a side, and of each leading group."""
    leverage_correction: bool | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    parameters: tuple[str, ...] = ()
    rank: int | None = None
    normalization: Literal["theta", "loss"] | None = None
    ensemble: bool = False
    bootstrap: int = 1000
    """Resamples behind each interval."""
    start: Literal["warm", "cold"] | None = None
    """Of retraining, as in FidelitySettings."""
    seeds: int = 1
    """Retrainings of each, averaged; of a model that is no linear head."""
    seed: int = 0
    kind: Literal["group_influence"] = "group_influence"

    @property
    def retrains(self) -> int:
        """Return how many groups are retrained with another weight."""
        return len(self.reweight) or self.reweight_top * len(REWEIGHTED_FACTORS)


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """What the shares are of."""

    test_rows: int
    rest_rows: int
    """All other rows of the test set; 0 where nothing was retrained."""
    loss: float
    """Mean loss of the test rows, by the registered weights."""
    accuracy: float | None
    """Of the registered weights on them; None of a regression, or without targets."""
    score: float
    """Σ score_i over all training rows."""
    size: float
    """Σ |score_i|."""
    recipe: str = ""
    """What was retrained, from where; empty where nothing was."""
    kind: Literal["summary"] = "summary"


@dataclass(frozen=True, slots=True)
class GroupShare:
    """What the training rows with one value in one column have to do with the test rows."""

    column: str
    group: str
    rows: int
    row_share: float
    """Its weight over that of all training rows."""
    score: Interval
    """Σ score_i over its rows: positive where the group as a whole keeps the cost low."""
    share: float
    """Σ |score_i| over its rows, over that of all."""
    signed_share: float | None
    """Σ score_i over its rows, over that of all; None where that is 0."""
    excess: Interval
    """share ÷ row_share: by how much more than its share of the rows the group counts."""
    mean_size: float
    """Mean |score| of its rows."""
    examples: tuple[ScoredExample, ...] = ()
    """Its rows of the largest |score|; of the groups that lead their column only."""
    kind: Literal["share"] = "share"


@dataclass(frozen=True, slots=True)
class CostChange:
    """What reweighting a group does to the mean cost of some test rows."""

    cost: float
    """Mean cost before."""
    measured: float
    """Its change by retraining: positive where it rises."""
    predicted: float | None
    """Its change to first order, (1 − factor) Σ score_i; None for scores that have no unit."""
    corrected: float | None
    """Its change by one Newton step on the reweighted objective; None of a model that is no linear head."""
    accuracy: float | None
    """Before; None of a regression, or without targets."""
    accuracy_after: float | None


@dataclass(frozen=True, slots=True)
class GroupEffect:
    """What reweighting one group does, measured by retraining."""

    column: str
    group: str
    factor: float
    rows: int
    on_rows: CostChange
    """On the test rows that were asked about."""
    on_rest: CostChange | None
    """On all others; None where there are none."""
    gradient_norm: float
    """‖∇R‖ of the fit at its end."""
    iterations: int
    kind: Literal["effect"] = "effect"


GroupFinding = GroupSummary | GroupShare | GroupEffect
"""A result is one summary, the shares column by column, most excess first, and the effects in the order asked for."""
