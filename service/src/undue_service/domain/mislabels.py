"""Mislabelled training rows: what is asked for, by which rankings they are looked for, and what was found."""

from dataclasses import dataclass
from typing import Literal, get_args

from .choices import Start
from .errors import InvalidArgument
from .self_influence import SelfInfluence

RankingName = Literal["self_influence", "loss", "margin", "confident_learning", "random"]
RANKINGS: tuple[RankingName, ...] = get_args(RankingName)

BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)

Protocol = Literal["flip", "known", "as_is"]


@dataclass(frozen=True, slots=True)
class KnownRows:
    """Training rows that are known to be mislabelled."""

    rows: tuple[int, ...]
    labels: tuple[int, ...] = ()
    """Their right labels; none where these are not known: a row that is found is then left out."""


@dataclass(frozen=True, slots=True)
class Mislabels:
    """Job: how well rankings find mislabelled training rows, or which rows they find.

    "flip": the labels of random rows are changed, so that it is known which ones are wrong, once for each seed.
    "known": some rows of the data as it is are known to be wrong. "as_is": nothing is known, and each ranking says
    which rows to look at first.
    """

    model: str
    train: str
    test: str = ""
    """Where accuracy is measured; none for "as_is"."""
    protocol: Protocol = "flip"
    flip: float = 0.1
    """Share of the training rows whose labels are changed; of "flip"."""
    known: KnownRows | None = None
    """Of "known"."""
    budgets: tuple[float, ...] = BUDGETS
    """Shares of the training rows that are looked at; not of "as_is"."""
    seeds: int = 10
    """Repetitions, each with its own flips, folds and random order; "as_is" has one."""
    seed: int = 0
    """Of the first repetition; the others follow it."""
    rankings: tuple[RankingName, ...] = RANKINGS
    top_k: int = 100
    """How many rows each ranking lists; of "as_is"."""
    folds: int = 5
    """Of the cross-validation behind "confident_learning"."""
    method: str = ""
    """Of "self_influence"; empty for that of a self-influence job."""
    damping: float | None = None
    """λ of "self_influence"."""
    leverage_correction: bool | None = None
    """Of "self_influence"; None: on where the method has one and the model is a linear head."""
    start: Start | None = None
    """As in FidelitySettings; of a model that is no linear head."""
    kind: Literal["mislabels"] = "mislabels"

    def scoring(self) -> SelfInfluence | None:
        """Return the job whose scores rows are ranked by; None where these are not asked for."""
        if "self_influence" not in self.rankings:
            return None
        return SelfInfluence(
            model=self.model,
            train=self.train,
            method=self.method,
            damping=self.damping,
            leverage_correction=self.leverage_correction,
            seed=self.seed,
        )

    def test_rows(self, of_set: int) -> int:
        """Return on how many test rows accuracy is measured: all, of a test set of so many rows."""
        return of_set

    @property
    def repetitions(self) -> int:
        """Return how often rows are ranked."""
        return 1 if self.protocol == "as_is" else self.seeds


def check_mislabels(spec: Mislabels, field: str) -> None:
    """Hold a job against what can be asked.

    Args:
        spec: the job.
        field: what the caller calls it; empty for nothing.

    Raises:
        InvalidArgument: INVALID_FIELD.
    """
    at = f"{field}." if field else ""
    if spec.protocol == "flip" and not 0 < spec.flip <= 0.5:
        text = f"is a share of the rows, above 0 and at most 0.5, not {spec.flip}: beyond it wrong labels are the rule"
        raise InvalidArgument.at(f"{at}flip", text)
    if spec.protocol != "as_is":
        if not spec.budgets:
            raise InvalidArgument.at(f"{at}budgets", "name at least one share of the rows to look at")
        wrong = next((budget for budget in spec.budgets if not 0 < budget <= 1), None)
        if wrong is not None:
            raise InvalidArgument.at(
                f"{at}budgets", f"a budget is a share of the rows, above 0 and at most 1, not {wrong}"
            )
        if any(one >= other for one, other in zip(spec.budgets, spec.budgets[1:], strict=False)):
            raise InvalidArgument.at(f"{at}budgets", "are in ascending order, each once")
    for name in ("seeds", "top_k"):
        if getattr(spec, name) < 1:
            raise InvalidArgument.at(f"{at}{name}", f"is at least 1, not {getattr(spec, name)}")
    if spec.folds < 2:
        raise InvalidArgument.at(f"{at}folds", f"are at least 2, not {spec.folds}")
    _check_rankings(spec, at)
    if spec.known is not None:
        _check_known(spec.known, f"{at}known")


def _check_rankings(spec: Mislabels, at: str) -> None:
    if not spec.rankings:
        raise InvalidArgument.at(f"{at}rankings", f"name at least one of {', '.join(RANKINGS)}")
    unknown = next((name for name in spec.rankings if name not in RANKINGS), None)
    if unknown is not None:
        raise InvalidArgument.at(f"{at}rankings", f"there is no ranking {unknown!r}; there are {', '.join(RANKINGS)}")
    if len(set(spec.rankings)) < len(spec.rankings):
        raise InvalidArgument.at(f"{at}rankings", "names a ranking twice")
    if "self_influence" not in spec.rankings:
        for name in ("method", "damping", "leverage_correction"):
            if getattr(spec, name) not in (None, ""):
                raise InvalidArgument.at(f"{at}{name}", "is of the ranking 'self_influence', which is not asked for")


def _check_known(known: KnownRows, at: str) -> None:
    if not known.rows:
        raise InvalidArgument.at(f"{at}.rows", "name at least one training row that is known to be wrong")
    if len(set(known.rows)) < len(known.rows):
        raise InvalidArgument.at(f"{at}.rows", "names a row twice")
    if known.labels and len(known.labels) != len(known.rows):
        text = f"there are {len(known.labels)} labels for {len(known.rows)} rows: give each its own, or none"
        raise InvalidArgument.at(f"{at}.labels", text)


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean over repetitions with Student's interval of 95 %."""

    value: float
    low: float
    """−∞ of one repetition."""
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MislabelPoint:
    """What one ranking found at one budget."""

    budget: float
    checked: int
    found: SeedMean
    """Share of the wrong rows."""
    accuracy: SeedMean
    """On the test rows, once what was found is put right and the model fitted again."""


@dataclass(frozen=True, slots=True)
class MislabelCurve:
    """What one ranking found."""

    ranking: RankingName
    points: tuple[MislabelPoint, ...]
    wrong: int
    """How many rows are wrong."""
    accuracy_right: float
    """Of the model that is fitted to no mistake."""
    accuracy_wrong: tuple[float, ...]
    """Of the one that is fitted to all, for each repetition."""
