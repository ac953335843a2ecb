"""What group influence and compare jobs found, from messages to values of the SDK. Pure functions."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._compare_results import CompareResult, ListAgreement, ModelView, Nearness, RowComparison, Scatter
from ._convert import name
from ._convert_jobs import diagnostics, scored_example, value
from ._errors import Internal
from ._fidelity import Interval
from ._group_results import CostChange, GroupEffect, GroupInfluenceResult, GroupShare
from ._results import Diagnostics, Explanation, Instances
from .v1 import jobs_pb2


def group_result(
    explained: Sequence[Explanation], found: Sequence[jobs_pb2.GroupFinding], of: Diagnostics, train: Instances | None
) -> GroupInfluenceResult:
    """Return the value of a group influence job's result.

    Raises:
        Internal: a part of it is missing.
    """
    if len(explained) != 1 or not found or not found[0].HasField("summary"):
        raise Internal("the service sent a group influence job's result without its summary")
    summary = found[0].summary
    return GroupInfluenceResult(
        groups=tuple(_share(each.share, train) for each in found if each.HasField("share")),
        effects=tuple(_effect(each.effect) for each in found if each.HasField("effect")),
        explanation=explained[0],
        loss=summary.loss,
        accuracy=_optional(summary, "accuracy"),
        score=summary.score,
        size=summary.size,
        rest_rows=summary.rest_rows,
        recipe=summary.recipe,
        diagnostics=of,
    )


def compare_result(found: Iterable[jobs_pb2.RowComparison], of: Diagnostics, train: Instances | None) -> CompareResult:
    """Return the value of a compare job's result.

    Raises:
        Internal: it is empty.
    """
    messages = list(found)
    if not messages:
        raise Internal("the service sent a compare job's result without a row")
    first = messages[0]
    return CompareResult(
        rows=tuple(_row(each, train) for each in messages),
        distance_inputs=tuple(first.distance_inputs),
        diagnostics=of,
        other_diagnostics=diagnostics(first.other_diagnostics) if first.HasField("other_diagnostics") else None,
    )


def _share(message: jobs_pb2.GroupShare, train: Instances | None) -> GroupShare:
    return GroupShare(
        column=message.column,
        group=message.group,
        rows=message.rows,
        row_share=message.row_share,
        score=_interval(message.score),
        share=message.share,
        signed_share=_optional(message, "signed_share"),
        excess=_interval(message.excess),
        mean_size=message.mean_size,
        examples=tuple(scored_example(each, train) for each in message.examples),
    )


def _effect(message: jobs_pb2.GroupEffect) -> GroupEffect:
    return GroupEffect(
        column=message.reweighting.column,
        group=message.reweighting.group,
        factor=message.reweighting.factor,
        rows=message.rows,
        on_rows=_change(message.on_rows),
        on_rest=_change(message.on_rest) if message.HasField("on_rest") else None,
        gradient_norm=message.gradient_norm,
        iterations=message.iterations,
    )


def _change(message: jobs_pb2.GroupEffect.CostChange) -> CostChange:
    return CostChange(
        cost=message.cost,
        measured=message.measured,
        predicted=_optional(message, "predicted"),
        corrected=_optional(message, "corrected"),
        accuracy=_optional(message, "accuracy"),
        accuracy_after=_optional(message, "accuracy_after"),
    )


def _row(message: jobs_pb2.RowComparison, train: Instances | None) -> RowComparison:
    scatter = message.scatter
    return RowComparison(
        row=message.row,
        id=message.id,
        view=_view(message.view, train),
        other=_view(message.other, train) if message.HasField("other") else None,
        agreement=_agreement(message.agreement) if message.HasField("agreement") else None,
        scatter=Scatter(
            rows=_array(scatter.rows, np.int64),
            scores=_array(scatter.scores, np.float32),
            other_scores=_array(scatter.other_scores, np.float32) if message.HasField("other") else None,
            distances=_array(scatter.distances, np.float32) if len(scatter.distances) else None,
        ),
    )


def _view(message: jobs_pb2.ModelView, train: Instances | None) -> ModelView:
    variants = jobs_pb2.ModelView.Variant
    near = message.nearness
    return ModelView(
        prediction=value(message.prediction),
        target=value(message.target),
        loss=message.loss,
        helpful=tuple(scored_example(each, train) for each in message.helpful),
        harmful=tuple(scored_example(each, train) for each in message.harmful),
        ablations={
            name(variants, each.variant, "VARIANT_").lower(): _agreement(each.agreement) for each in message.ablations
        },
        nearness=(
            Nearness(_optional(near, "pearson"), _optional(near, "spearman")) if message.HasField("nearness") else None
        ),
    )


def _agreement(message: jobs_pb2.ListAgreement) -> ListAgreement:
    return ListAgreement(
        spearman=_optional(message, "spearman"),
        jaccard_helpful=message.jaccard_helpful,
        jaccard_harmful=message.jaccard_harmful,
        overlap_helpful=message.overlap_helpful,
        overlap_harmful=message.overlap_harmful,
    )


def _interval(message: jobs_pb2.Interval) -> Interval:
    return Interval(message.value, message.low, message.high)


def _optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _array(values: Iterable[Any], dtype: Any) -> npt.NDArray[Any]:
    array = np.array(list(values), dtype=dtype)
    array.flags.writeable = False
    return array
