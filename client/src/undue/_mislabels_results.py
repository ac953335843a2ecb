"""What a mislabels job found, as frozen values that print themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import _render, _render_mislabels
from ._results import Diagnostics, ScoredExample, data_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SeedMean:
    """A mean over repetitions with Student's interval of 95 %."""

    value: float
    low: float
    """−∞ of one repetition, which says nothing of the spread."""
    high: float
    by_seed: npt.NDArray[np.float64]
    """(S,) the value of each repetition."""

    def __repr__(self) -> str:
        return f"SeedMean({self})"

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class MislabelPoint:
    """What one ranking found at one budget."""

    budget: float
    """Share of the training rows that is looked at."""
    checked: int
    """How many these are."""
    found: SeedMean
    """Share of the wrong rows among them."""
    accuracy: SeedMean
    """On the test rows, once the wrong ones among them are put right and the model is fitted again."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MislabelsResult:
    """How well rankings find mislabelled training rows, in S repetitions."""

    curves: Mapping[str, tuple[MislabelPoint, ...]]
    """By ranking, a point for each budget."""
    wrong: int
    """How many training rows are wrong."""
    accuracy_right: float
    """Accuracy on the test rows of the model that is fitted to no mistake."""
    accuracy_wrong: npt.NDArray[np.float64]
    """(S,) of the model that is fitted to all mistakes."""
    diagnostics: Diagnostics

    @property
    def rankings(self) -> tuple[str, ...]:
        """Return the names of the rankings."""
        return tuple(self.curves)

    @property
    def budgets(self) -> tuple[float, ...]:
        """Return the shares of the training rows that were looked at."""
        return tuple(point.budget for point in next(iter(self.curves.values())))

    def found(self, ranking: str) -> npt.NDArray[np.float64]:
        """Return the share of the wrong rows that a ranking finds, (S, budgets)."""
        return np.stack([point.found.by_seed for point in self.curves[ranking]], axis=1)

    def accuracy(self, ranking: str) -> npt.NDArray[np.float64]:
        """Return the accuracy once what a ranking finds is put right, (S, budgets)."""
        return np.stack([point.accuracy.by_seed for point in self.curves[ranking]], axis=1)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a long table: one line for each ranking, budget and repetition.

        Columns: ranking, budget, checked, repetition, found, accuracy.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_mislabels.REPETITION_COLUMNS, _render_mislabels.repetition_records(self))

    def __len__(self) -> int:
        return len(self.accuracy_wrong)

    def __repr__(self) -> str:
        last = {name: f"{points[-1].found.value:.3f}" for name, points in self.curves.items()}
        found = ", ".join(f"{name} {share}" for name, share in last.items())
        return f"<MislabelsResult: {len(self)} repetitions, at budget {self.budgets[-1]:g} found {found}>"

    def __str__(self) -> str:
        return _render_mislabels.curves_text(self)

    def _repr_html_(self) -> str:
        return _render_mislabels.curves_html(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SuspectsResult:
    """Training rows whose labels look wrong, by several rankings."""

    lists: Mapping[str, tuple[ScoredExample, ...]]
    """By ranking, the most suspicious rows first."""
    diagnostics: Diagnostics

    @property
    def rankings(self) -> tuple[str, ...]:
        """Return the names of the rankings."""
        return tuple(self.lists)

    @property
    def overlap(self) -> npt.NDArray[np.float64]:
        """Return which share of its list each ranking shares with each, (R, R)."""
        rows = [{each.row for each in examples} for examples in self.lists.values()]
        return np.array([[len(one & other) / len(one) for other in rows] for one in rows])

    def votes(self) -> dict[int, tuple[str, ...]]:
        """Return the rankings that list each row, for every listed row, those of most rankings first."""
        found: dict[int, list[str]] = {}
        for name, examples in self.lists.items():
            for each in examples:
                found.setdefault(each.row, []).append(name)
        return {row: tuple(names) for row, names in sorted(found.items(), key=lambda one: -len(one[1]))}

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table: one line for each ranking and row.

        Columns: ranking, rank, train_row, id, score, target, prediction, loss.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_mislabels.SUSPECT_COLUMNS, _render_mislabels.suspect_records(self))

    def __len__(self) -> int:
        return max(map(len, self.lists.values()))

    def __repr__(self) -> str:
        return (
            f"<SuspectsResult: {len(self)} rows by {', '.join(self.rankings)}, {_render.method_text(self.diagnostics)}>"
        )

    def __str__(self) -> str:
        return _render_mislabels.suspects_text(self)

    def _repr_html_(self) -> str:
        return _render_mislabels.suspects_html(self)
