"""Compare jobs and what they found, between messages and values of the domain. Pure."""

from undue.v1 import jobs_pb2
from undue_service.domain.comparison import Compare
from undue_service.domain.comparison_findings import (
    CompareSummary,
    ListAgreement,
    ModelView,
    RowComparison,
    Scatter,
    Variant,
)
from undue_service.domain.reports import Diagnostics

from . import values
from .enums import Words
from .scoring import read_settings, write_settings

VARIANTS: Words[Variant] = Words(
    {
        jobs_pb2.ModelView.VARIANT_NO_CURVATURE: "no_curvature",
        jobs_pb2.ModelView.VARIANT_NO_LOSS: "no_loss",
        jobs_pb2.ModelView.VARIANT_NEITHER: "neither",
    }
)


def read_spec(message: jobs_pb2.CompareSpec) -> Compare:
    """Return the job that a request is about."""
    return Compare(
        other=message.other or None,
        other_method=message.other_method,
        ablation=not message.without_ablation,
        distance=not message.without_distance,
        distance_inputs=tuple(message.distance_inputs),
        scatter=message.scatter if message.HasField("scatter") else 1000,
        **read_settings(message),
    )


def write_spec(spec: Compare) -> jobs_pb2.CompareSpec:
    """Return the message of a job."""
    return jobs_pb2.CompareSpec(
        other=spec.other or "",
        other_method=spec.other_method,
        without_ablation=not spec.ablation,
        without_distance=not spec.distance,
        distance_inputs=spec.distance_inputs,
        scatter=spec.scatter,
        **write_settings(spec),
    )


def write_row(
    value: RowComparison, summary: CompareSummary | None, other: Diagnostics | None = None
) -> jobs_pb2.RowComparison:
    """Return the message of one test row; the first has what holds of all, what the other model's scores mean, too."""
    message = jobs_pb2.RowComparison(
        row=value.row,
        id=value.id,
        view=_view(value.view),
        other=None if value.other is None else _view(value.other),
        agreement=None if value.agreement is None else _agreement(value.agreement),
        scatter=_scatter(value.scatter),
    )
    if summary is not None:
        message.distance_inputs.extend(summary.distance_inputs)
    if other is not None:
        message.other_diagnostics.CopyFrom(values.diagnostics(other))
    return message


def _view(value: ModelView) -> jobs_pb2.ModelView:
    message = jobs_pb2.ModelView(
        prediction=values.value_message(value.prediction),
        target=values.value_message(value.target),
        loss=value.loss,
        helpful=[values.scored_example(one) for one in value.helpful],
        harmful=[values.scored_example(one) for one in value.harmful],
        ablations=[
            jobs_pb2.ModelView.Ablation(variant=VARIANTS.to_proto(one.variant), agreement=_agreement(one.agreement))
            for one in value.ablations
        ],
    )
    if value.nearness is not None:
        near = jobs_pb2.ModelView.Nearness(pearson=value.nearness.pearson, spearman=value.nearness.spearman)
        message.nearness.CopyFrom(near)
    return message


def _agreement(value: ListAgreement) -> jobs_pb2.ListAgreement:
    return jobs_pb2.ListAgreement(
        spearman=value.spearman,
        jaccard_helpful=value.jaccard_helpful,
        jaccard_harmful=value.jaccard_harmful,
        overlap_helpful=value.overlap_helpful,
        overlap_harmful=value.overlap_harmful,
    )


def _scatter(value: Scatter) -> jobs_pb2.RowComparison.Scatter:
    return jobs_pb2.RowComparison.Scatter(
        rows=value.rows, scores=value.scores, other_scores=value.other_scores, distances=value.distances
    )
