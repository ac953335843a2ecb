"""What a mislabels job is asked, checked before anything is sent, as messages. Pure."""

import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from ._errors import invalid
from ._fidelity import Start
from ._inputs import (
    flag_or_none,
    name_or_none,
    non_negative,
    positive,
    resource_name,
    row_numbers,
    seed_number,
    strings,
)
from ._resources import Dataset, Model
from .v1 import jobs_pb2, mislabels_pb2

RankingName = Literal["self_influence", "loss", "margin", "confident_learning", "random"]

FLIP = 0.1
"""Share of the labels that are changed where nothing is said."""

RANKINGS: dict[RankingName, mislabels_pb2.Ranking.ValueType] = {
    "self_influence": mislabels_pb2.RANKING_SELF_INFLUENCE,
    "loss": mislabels_pb2.RANKING_LOSS,
    "margin": mislabels_pb2.RANKING_MARGIN,
    "confident_learning": mislabels_pb2.RANKING_CONFIDENT_LEARNING,
    "random": mislabels_pb2.RANKING_RANDOM,
}
_STARTS: dict[Start, mislabels_pb2.MislabelsSpec.Start.ValueType] = {
    "warm": mislabels_pb2.MislabelsSpec.START_WARM,
    "cold": mislabels_pb2.MislabelsSpec.START_COLD,
}


def mislabels(
    model: Model | str,
    *,
    train: Dataset | str,
    test: Dataset | str,
    flip: float | None = None,
    known: Mapping[int, int] | Iterable[int] | None = None,
    budgets: Iterable[float] | None = None,
    seeds: int = 10,
    seed: int = 0,
    rankings: Iterable[RankingName] | None = None,
    folds: int = 5,
    method: str | None = None,
    damping: float | None = None,
    leverage_correction: bool | None = None,
    start: Start | None = None,
    timeout_seconds: float | None = None,
) -> jobs_pb2.Job:
    """Return a job that says how well rankings find mislabelled rows.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    if flip is not None and known is not None:
        raise invalid("flip", "changes labels at random, and known says which ones are wrong: pass one of the two")
    spec = mislabels_pb2.MislabelsSpec(
        test=resource_name("test", "datasets", test),
        known=None if known is None else _known(known),
        budgets=_budgets(budgets),
        seeds=positive("seeds", seeds),
        **_ranked(model, train, seed, rankings, folds, method, damping, leverage_correction, start),
    )
    if known is None:
        spec.flip = _share("flip", FLIP if flip is None else flip, 0.5)
    return jobs_pb2.Job(mislabels=spec, timeout_seconds=_timeout(timeout_seconds))


def suspects(
    model: Model | str,
    *,
    train: Dataset | str,
    top_k: int = 100,
    seed: int = 0,
    rankings: Iterable[RankingName] | None = None,
    folds: int = 5,
    method: str | None = None,
    damping: float | None = None,
    leverage_correction: bool | None = None,
    start: Start | None = None,
    timeout_seconds: float | None = None,
) -> jobs_pb2.Job:
    """Return a job that lists the rows whose labels look wrong.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    spec = mislabels_pb2.MislabelsSpec(
        suspects=positive("top_k", top_k),
        **_ranked(model, train, seed, rankings, folds, method, damping, leverage_correction, start),
    )
    return jobs_pb2.Job(mislabels=spec, timeout_seconds=_timeout(timeout_seconds))


def _ranked(
    model: Model | str,
    train: Dataset | str,
    seed: int,
    rankings: Iterable[RankingName] | None,
    folds: int,
    method: str | None,
    damping: float | None,
    leverage_correction: bool | None,
    start: Start | None,
) -> dict[str, Any]:
    """Return what both have."""
    if start is not None and start not in _STARTS:
        raise invalid("start", f"{start!r} is not one of {', '.join(_STARTS)}")
    return {
        "model": resource_name("model", "models", model),
        "train": resource_name("train", "datasets", train),
        "seed": seed_number("seed", seed),
        "rankings": [] if rankings is None else _rankings(rankings),
        "folds": positive("folds", folds),
        "method": name_or_none("method", method),
        "damping": None if damping is None else non_negative("damping", damping),
        "leverage_correction": flag_or_none("leverage_correction", leverage_correction),
        "start": None if start is None else _STARTS[start],
    }


def _rankings(names: Iterable[RankingName]) -> list[mislabels_pb2.Ranking.ValueType]:
    asked = strings("rankings", names)
    if not asked:
        raise invalid("rankings", f"is empty; name at least one of {', '.join(RANKINGS)}, or leave it out for all")
    for name in asked:
        if name not in get_args(RankingName):
            raise invalid("rankings", f"{name!r} is not one of {', '.join(RANKINGS)}")
    return [number for name in asked for ranking, number in RANKINGS.items() if ranking == name]


def _known(known: Mapping[int, int] | Iterable[int]) -> mislabels_pb2.KnownMislabels:
    rows = row_numbers("known", known, empty="is empty; name the training rows that are known to be wrong")
    if len(set(rows)) < len(rows):
        raise invalid("known", "names a row twice")
    if not isinstance(known, Mapping):
        return mislabels_pb2.KnownMislabels(rows=rows)
    labels = list(known.values())
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, numbers.Integral) or int(label) < 0:
            raise invalid("known", f"{label!r} is no label: write {{row: its right class, 0, 1, …}}")
    return mislabels_pb2.KnownMislabels(rows=rows, labels=[int(label) for label in labels])


def _budgets(budgets: Iterable[float] | None) -> list[float]:
    if budgets is None:
        return []
    if isinstance(budgets, str) or not isinstance(budgets, Iterable):
        raise invalid("budgets", f"{budgets!r} is not a list of shares: write [{budgets!r}]")
    shares = [_share("budgets", budget, 1) for budget in budgets]
    if not shares:
        raise invalid("budgets", "is empty; name shares of the rows to look at, such as [0.05, 0.1]")
    return shares


def _share(field: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) <= most:
        raise invalid(field, f"{value!r} is not a share of the rows above 0 and up to {most:g}")
    return float(value)


def _timeout(seconds: float | None) -> float:
    return 0.0 if seconds is None else non_negative("timeout_seconds", seconds)
