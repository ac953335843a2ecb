"""What a group influence job found, as frozen values that print themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _render, _render_groups
from ._fidelity import Interval
from ._results import Diagnostics, Explanation, ScoredExample, data_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class GroupShare:
    """What the training rows with one value in one column have to do with the test rows."""

    column: str
    group: str
    rows: int
    row_share: float
    """Their weight over that of all training rows."""
    score: Interval
    """Sum of their scores: positive where the group as a whole keeps the cost low."""
    share: float
    """Sum of the sizes of their scores, over that of all training rows."""
    signed_share: float | None
    """Sum of their scores, over that of all training rows; None where that is 0."""
    excess: Interval
    """`share` over `row_share`: by how much more than its share of the rows the group counts."""
    mean_size: float
    """Mean size of their scores."""
    examples: tuple[ScoredExample, ...]
    """Those with the largest scores, positive or negative; of the 20 leading groups of a column."""


@dataclass(frozen=True, slots=True)
class CostChange:
    """What reweighting a group does to the mean cost of some test rows."""

    cost: float
    """Mean cost before."""
    measured: float
    """Its change by retraining: positive where it rises."""
    predicted: float | None
    """Its change to first order, from the sum of the group's scores; None for scores that have no unit."""
    corrected: float | None
    """Its change by one Newton step on the reweighted objective; None of a model that is no linear head."""
    accuracy: float | None
    """Before; None for a regression, or without targets."""
    accuracy_after: float | None


@dataclass(frozen=True, slots=True)
class GroupEffect:
    """What giving a group another weight does, measured by retraining."""

    column: str
    group: str
    factor: float
    """By what its weights were multiplied; 0 removes it."""
    rows: int
    on_rows: CostChange
    """On the test rows that were asked about."""
    on_rest: CostChange | None
    """On all others of the test set; None where there are none."""
    gradient_norm: float
    """‖∇R‖ of the fit's objective at its end."""
    iterations: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class GroupInfluenceResult:
    """Which groups of training rows moved the predictions of some test rows."""

    groups: tuple[GroupShare, ...]
    """Column by column, most excess first."""
    effects: tuple[GroupEffect, ...]
    """What reweighting did, in the order asked for; empty where nothing was retrained."""
    explanation: Explanation
    """The training rows that matter most to the mean cost of the test rows."""
    loss: float
    """Mean loss of the test rows at the registered weights."""
    accuracy: float | None
    """Share of them whose predicted label is right; None for a regression, or without targets."""
    score: float
    """Sum of the scores of all training rows."""
    size: float
    """Sum of their sizes."""
    rest_rows: int
    """Test rows that were not asked about; 0 where nothing was retrained."""
    recipe: str
    """What was retrained, and from where; empty where nothing was."""
    diagnostics: Diagnostics

    def of(self, group: str, column: str | None = None) -> GroupShare:
        """Return the share of a group.

        Raises:
            KeyError: there is none of that name.
        """
        for each in self.groups:
            if each.group == str(group) and column in (None, each.column):
                return each
        raise KeyError(group)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table: one line for each group.

        Columns: column, group, rows, row_share, score, score_low, score_high, share, signed_share, excess, excess_low,
        excess_high, mean_size.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_groups.GROUP_COLUMNS, _render_groups.group_records(self.groups))

    def effects_to_pandas(self) -> "pd.DataFrame":
        """Return a table of the effects: one line for each group, factor and part of the test set.

        Columns: column, group, factor, rows, on, cost, measured, predicted, corrected, accuracy, accuracy_after.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_groups.EFFECT_COLUMNS, _render_groups.effect_records(self.effects))

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[GroupShare]:
        return iter(self.groups)

    def __repr__(self) -> str:
        counted = f"{len(self)} groups, {len(self.effects)} effects, {len(self.explanation.rows)} test rows"
        return f"<GroupInfluenceResult: {counted}, {_render.method_text(self.diagnostics)}>"

    def __str__(self) -> str:
        return _render_groups.text(self)

    def _repr_html_(self) -> str:
        return _render_groups.html(self)
