"""How scores are held against retraining, and what that found, as frozen values."""

from dataclasses import dataclass
from typing import Literal, get_args

from ._errors import invalid
from ._inputs import positive, relative, seed_number

FidelityKind = Literal["loo", "lds"]
Start = Literal["warm", "cold"]


@dataclass(frozen=True, slots=True)
class FidelitySettings:
    """How scores are held against retraining.

    Args:
        kind: "loo" removes single training rows, `samples` drawn at random and as many again from strata of the score's
            size; "lds" trains on `samples` random subsets: the linear datamodelling score (Park et al. 2023).
        samples: rows drawn at random, or subsets.
        strata: quantiles of the score's size, averaged over the test rows; equally many rows are drawn of each ("loo").
        share: which part of the training rows a subset has ("lds").
        seeds: trainings of each, over which costs are averaged; of a model that is no linear head.
        start: "warm", from the registered weights, or "cold", from the recipe's initial ones; None: cold where there
            are some. A linear head is fitted to its minimum wherever it starts.
        bootstrap: resamples behind each interval.
        seed: of what is drawn.

    Raises:
        InvalidArgument: a number is out of range, or a word unknown.
    """

    kind: FidelityKind = "loo"
    samples: int = 50
    strata: int = 5
    share: float = 0.5
    seeds: int = 1
    start: Start | None = None
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(FidelityKind):
            raise invalid("kind", f"{self.kind!r} is not one of {', '.join(get_args(FidelityKind))}")
        if self.start is not None and self.start not in get_args(Start):
            raise invalid("start", f"{self.start!r} is not one of {', '.join(get_args(Start))}")
        for name in ("samples", "strata", "seeds", "bootstrap"):
            positive(name, getattr(self, name))
        relative("share", self.share)
        seed_number("seed", self.seed)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with the bootstrap interval of 95 % around it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Agreement:
    """That of predicted with measured changes, over pairs of a retraining and a test row."""

    pearson: Interval
    spearman: Interval
    slope: Interval
    """Of measured on predicted, through the origin: 1 where the size is right. Of no meaning for relative scores."""
    retrainings: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Stratum:
    """The training rows of one quantile of the score's size."""

    low: float
    """Smallest size in it: the mean of |score| over the test rows."""
    high: float
    """Largest size in it."""
    agreement: Agreement
    """Over the rows that were drawn from it."""


@dataclass(frozen=True, slots=True)
class FidelityFinding:
    """How well scores foretell what retraining does."""

    kind: str
    """"loo" or "lds"."""
    recipe: str
    """What was retrained, from where, and with which divisor."""
    agreement: Agreement
    """"loo": over the rows drawn at random, never those with the largest scores only. "lds": pooled within each test
    row."""
    strata: tuple[Stratum, ...]
    """"loo": smallest scores first."""
    lds: Interval | None
    """"lds": Spearman's correlation over the subsets, averaged over the test rows."""
    seconds: float
    """Seconds of retraining."""
    warnings: tuple[str, ...]
