"""What a compare job found, as values."""

from dataclasses import dataclass
from typing import Literal

from .results import ScoredExample, Value

Variant = Literal["no_curvature", "no_loss", "neither"]
"""Influence without H⁻¹, without the training row's loss (its residual made 1 long), and without both."""


@dataclass(frozen=True, slots=True)
class ListAgreement:
    """How far two rankings of the training rows agree; a correlation is None where a score does not vary."""

    spearman: float | None
    """Over all training rows."""
    jaccard_helpful: float
    """Of the lists of the most helpful rows: shared rows over all that are in one of them."""
    jaccard_harmful: float
    overlap_helpful: float
    """Rank-biased overlap (Webber et al. 2010), extrapolated, p = 0.9: the first ranks count most."""
    overlap_harmful: float


@dataclass(frozen=True, slots=True)
class Ablation:
    """What is left of a ranking without a part of influence."""

    variant: Variant
    agreement: ListAgreement
    """With the whole of it."""


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
    ablations: tuple[Ablation, ...] = ()
    nearness: Nearness | None = None


@dataclass(frozen=True, slots=True)
class Scatter:
    """Some training rows: those that a model lists, and some drawn at random, ascending."""

    rows: tuple[int, ...]
    scores: tuple[float, ...]
    other_scores: tuple[float, ...] = ()
    """Empty without another model."""
    distances: tuple[float, ...] = ()
    """Empty where none were asked for."""


@dataclass(frozen=True, slots=True)
class RowComparison:
    """One test row, side by side."""

    row: int
    id: str
    view: ModelView
    other: ModelView | None
    agreement: ListAgreement | None
    """Of the two models' rankings."""
    scatter: Scatter
    kind: Literal["row"] = "row"


@dataclass(frozen=True, slots=True)
class CompareSummary:
    """What holds of all rows."""

    rows: int
    distance_inputs: tuple[str, ...]
    """Over which distances were taken; empty where none were."""
    kind: Literal["summary"] = "summary"


CompareFinding = CompareSummary | RowComparison
"""A result is one summary, then the rows in the order asked for."""
