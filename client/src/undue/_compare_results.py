"""What a compare job found, as frozen values that print themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import _render, _render_compare
from ._results import Diagnostics, ScoredExample, Value, data_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ListAgreement:
    """How far two rankings of the training rows agree."""

    spearman: float | None
    """Spearman's correlation of the scores of all training rows; None where one of them does not vary."""
    jaccard_helpful: float
    """Rows that both lists of the most helpful have, over those that one of them has."""
    jaccard_harmful: float
    overlap_helpful: float
    """Rank-biased overlap (Webber et al. 2010), extrapolated, p = 0.9: the first ranks count most."""
    overlap_harmful: float


@dataclass(frozen=True, slots=True)
class Nearness:
    """Correlations of |score| with −distance over the training rows; None where one of them does not vary."""

    pearson: float | None
    spearman: float | None


@dataclass(frozen=True, slots=True)
class ModelView:
    """What one model says of a test row, and why."""

    prediction: Value
    target: Value
    loss: float
    helpful: tuple[ScoredExample, ...]
    harmful: tuple[ScoredExample, ...]
    ablations: dict[str, ListAgreement]
    """How the scores agree with those without the curvature ("no_curvature": the identity for H⁻¹), without the
    training row's loss ("no_loss": its residual ∂ℓ/∂f made 1 long) and without both ("neither"); empty where that was
    not asked for, or the method's scores have no such parts."""
    nearness: Nearness | None
    """How the size of a score goes with being near; None where that was not asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Scatter:
    """Some training rows, ascending: those that a model lists, and some drawn at random."""

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    other_scores: npt.NDArray[np.float32] | None
    """None without another model."""
    distances: npt.NDArray[np.float32] | None
    """From the test row, in the space of the inputs; None where they were not asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class RowComparison:
    """One test row, side by side."""

    row: int
    id: str
    view: ModelView
    """What the model says of it."""
    other: ModelView | None
    """What the other model says of it; None without one."""
    agreement: ListAgreement | None
    """Of the two models' rankings; None without another."""
    scatter: Scatter


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CompareResult:
    """What one model, or two, say of the same test rows."""

    rows: tuple[RowComparison, ...]
    """One for each test row that was asked for, in that order."""
    distance_inputs: tuple[str, ...]
    """Names of the inputs that distances are over; empty where there are none."""
    diagnostics: Diagnostics
    other_diagnostics: Diagnostics | None
    """Of the other model's scores; None without one."""

    def to_pandas(self) -> "pd.DataFrame":
        """Return a long table of what is held against what: one line for each test row, model and comparison.

        Columns: test_row, id, model, prediction, target, loss, with, spearman, jaccard_helpful, jaccard_harmful,
        overlap_helpful, overlap_harmful. `with` is "other", the two models' rankings; "no_curvature", "no_loss" or
        "neither", influence without parts of it; or "nearness", whose Spearman correlation alone is known.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_compare.COLUMNS, _render_compare.records(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[RowComparison]:
        return iter(self.rows)

    def __repr__(self) -> str:
        models = "one model" if self.other_diagnostics is None else "two models"
        return f"<CompareResult: {len(self)} test rows, {models}, {_render.method_text(self.diagnostics)}>"

    def __str__(self) -> str:
        return _render_compare.text(self)

    def _repr_html_(self) -> str:
        return _render_compare.html(self)
