"""Mislabels jobs and what they found, between messages and values of the domain. Pure."""

from typing import Any, cast

from undue.v1 import mislabels_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.mislabels import RANKINGS as RANKING_NAMES
from undue_service.domain.mislabels import KnownRows, MislabelCurve, Mislabels, RankingName, SeedMean
from undue_service.domain.results import ScoredExample

from .enums import RANKINGS
from .values import value_message

_STARTS = {mislabels_pb2.MislabelsSpec.START_WARM: "warm", mislabels_pb2.MislabelsSpec.START_COLD: "cold"}
_OPTIONAL = ("seeds", "folds", "damping", "leverage_correction")


def read_spec(message: mislabels_pb2.MislabelsSpec) -> Mislabels:
    """Return the job of a request, what is unset at its defaults.

    Raises:
        InvalidArgument: INVALID_FIELD for settings of repetitions where there are none.
    """
    given: dict[str, Any] = {name: getattr(message, name) for name in _OPTIONAL if message.HasField(cast(Any, name))}
    if message.budgets:
        given["budgets"] = tuple(message.budgets)
    if message.rankings:
        given["rankings"] = tuple(RANKINGS.to_domain("job.mislabels.rankings", one) for one in message.rankings)
    match message.WhichOneof("wrong"):
        case "flip":
            given |= {"protocol": "flip", "flip": message.flip}
        case "known":
            given |= {
                "protocol": "known",
                "known": KnownRows(tuple(message.known.rows), tuple(message.known.labels)),
            }
        case _:
            for name in ("budgets", "seeds"):
                if name in given:
                    text = "is of repetitions, and where rows are only listed there are none: leave it out"
                    raise InvalidArgument.at(f"job.mislabels.{name}", text)
            looked_for = tuple(name for name in RANKING_NAMES if name != "random")
            given = {"rankings": looked_for} | given | {"protocol": "as_is", "top_k": message.suspects}
    return Mislabels(
        model=message.model,
        train=message.train,
        test=message.test,
        seed=message.seed,
        method=message.method,
        start=cast(Any, _STARTS[message.start]) if message.HasField("start") else None,
        **given,
    )


def write_spec(spec: Mislabels) -> mislabels_pb2.MislabelsSpec:
    """Return the message of a job."""
    message = mislabels_pb2.MislabelsSpec(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        seed=spec.seed,
        rankings=[RANKINGS.to_proto(name) for name in spec.rankings],
        folds=spec.folds,
        method=spec.method,
        damping=spec.damping,
        leverage_correction=spec.leverage_correction,
    )
    if spec.start is not None:
        message.start = next(number for number, word in _STARTS.items() if word == spec.start)
    if spec.protocol == "as_is":
        message.suspects = spec.top_k
        return message
    message.budgets.extend(spec.budgets)
    message.seeds = spec.seeds
    if spec.known is not None:
        message.known.CopyFrom(mislabels_pb2.KnownMislabels(rows=spec.known.rows, labels=spec.known.labels))
    else:
        message.flip = spec.flip
    return message


def write_curve(curve: MislabelCurve) -> mislabels_pb2.MislabelCurve:
    """Return what one ranking found."""
    points = [
        mislabels_pb2.MislabelPoint(
            budget=point.budget, checked=point.checked, found=_mean(point.found), accuracy=_mean(point.accuracy)
        )
        for point in curve.points
    ]
    return mislabels_pb2.MislabelCurve(
        ranking=RANKINGS.to_proto(curve.ranking),
        points=points,
        wrong=curve.wrong,
        accuracy_right=curve.accuracy_right,
        accuracy_wrong=curve.accuracy_wrong,
    )


def write_suspect(ranking: RankingName, one: ScoredExample) -> mislabels_pb2.Suspect:
    """Return a row to look at."""
    return mislabels_pb2.Suspect(
        ranking=RANKINGS.to_proto(ranking),
        row=one.row,
        id=one.id,
        score=one.score,
        target=value_message(one.target),
        prediction=value_message(one.prediction),
        loss=one.loss,
    )


def _mean(mean: SeedMean) -> mislabels_pb2.SeedMean:
    return mislabels_pb2.SeedMean(value=mean.value, low=mean.low, high=mean.high, by_seed=mean.by_seed)
