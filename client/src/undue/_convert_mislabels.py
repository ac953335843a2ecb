"""Messages of mislabels jobs to values of the SDK. Pure functions."""

from collections.abc import Iterable, Sequence

from ._convert import name
from ._convert_jobs import value
from ._convert_retraining import numbers
from ._errors import Internal
from ._mislabels_results import MislabelPoint, MislabelsResult, SeedMean, SuspectsResult
from ._results import Diagnostics, Instances, ScoredExample
from .v1 import mislabels_pb2


def mislabels_result(job: str, curves: Sequence[mislabels_pb2.MislabelCurve], of: Diagnostics) -> MislabelsResult:
    """Return the value of a job's curves.

    Raises:
        Internal: the curves do not fit together.
    """
    if not curves:
        raise Internal(f"{job} found nothing")
    first = curves[0]
    seeds = len(first.accuracy_wrong)
    shape = [(point.budget, point.checked) for point in first.points]
    for curve in curves:
        lengths = {len(mean.by_seed) for point in curve.points for mean in (point.found, point.accuracy)}
        if [(point.budget, point.checked) for point in curve.points] != shape or lengths != {seeds}:
            raise Internal(f"{job} sent curves that do not fit together")
    return MislabelsResult(
        curves={
            _ranking(curve.ranking): tuple(
                MislabelPoint(point.budget, point.checked, _mean(point.found), _mean(point.accuracy))
                for point in curve.points
            )
            for curve in curves
        },
        wrong=first.wrong,
        accuracy_right=first.accuracy_right,
        accuracy_wrong=numbers(first.accuracy_wrong),
        diagnostics=of,
    )


def suspects_result(found: Iterable[mislabels_pb2.Suspect], train: Instances, of: Diagnostics) -> SuspectsResult:
    """Return the value of a job's lists; `train` is where the instances can be read.

    Raises:
        Internal: nothing was found.
    """
    lists: dict[str, list[ScoredExample]] = {}
    for each in found:
        example = ScoredExample(
            row=each.row,
            id=each.id,
            score=each.score,
            target=value(each.target),
            prediction=value(each.prediction),
            loss=each.loss,
            _instances=train,
        )
        lists.setdefault(_ranking(each.ranking), []).append(example)
    if not lists:
        raise Internal("the service sent no rows")
    return SuspectsResult({ranking: tuple(examples) for ranking, examples in lists.items()}, of)


def _ranking(number: mislabels_pb2.Ranking.ValueType) -> str:
    return name(mislabels_pb2.Ranking, number, "RANKING_").lower()


def _mean(message: mislabels_pb2.SeedMean) -> SeedMean:
    return SeedMean(message.value, message.low, message.high, numbers(message.by_seed))
