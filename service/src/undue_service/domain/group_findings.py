"""What a group influence job found, as values."""

from dataclasses import dataclass
from typing import Literal

from .reports import Interval
from .results import ScoredExample


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
