"""Group influence jobs and what they found, between messages and values of the domain. Pure."""

from undue.v1 import jobs_pb2
from undue_service.domain.group_findings import CostChange, GroupEffect, GroupFinding, GroupShare, GroupSummary
from undue_service.domain.group_influence import REWEIGHTED_GROUPS, GroupInfluence, Reweighting
from undue_service.domain.reports import Interval

from . import fidelity, values
from .enums import STARTS
from .scoring import read_settings, write_settings


def read_spec(message: jobs_pb2.GroupInfluenceSpec) -> GroupInfluence:
    """Return the job that a request is about."""
    reweight = tuple(Reweighting(one.column, one.group, one.factor) for one in message.reweight)
    return GroupInfluence(
        by=tuple(message.by),
        reweight=reweight,
        reweight_top=message.reweight_top if message.HasField("reweight_top") else 0 if reweight else REWEIGHTED_GROUPS,
        bootstrap=message.bootstrap if message.HasField("bootstrap") else 1000,
        start=fidelity.read_start("job.group_influence.start", message),
        seeds=message.seeds if message.HasField("seeds") else 1,
        **read_settings(message),
    )


def write_spec(spec: GroupInfluence) -> jobs_pb2.GroupInfluenceSpec:
    """Return the message of a job."""
    return jobs_pb2.GroupInfluenceSpec(
        by=spec.by,
        reweight=[_reweighting(one.column, one.group, one.factor) for one in spec.reweight],
        reweight_top=spec.reweight_top,
        bootstrap=spec.bootstrap,
        start=None if spec.start is None else STARTS.to_proto(spec.start),
        seeds=spec.seeds,
        **write_settings(spec),
    )


def write_finding(value: GroupFinding) -> jobs_pb2.GroupFinding:
    """Return the message of one finding."""
    match value:
        case GroupSummary():
            return jobs_pb2.GroupFinding(
                summary=jobs_pb2.GroupSummary(
                    test_rows=value.test_rows,
                    rest_rows=value.rest_rows,
                    loss=value.loss,
                    accuracy=value.accuracy,
                    score=value.score,
                    size=value.size,
                    recipe=value.recipe,
                )
            )
        case GroupShare():
            return jobs_pb2.GroupFinding(share=_share(value))
        case GroupEffect():
            return jobs_pb2.GroupFinding(effect=_effect(value))


def _share(value: GroupShare) -> jobs_pb2.GroupShare:
    return jobs_pb2.GroupShare(
        column=value.column,
        group=value.group,
        rows=value.rows,
        row_share=value.row_share,
        score=_interval(value.score),
        share=value.share,
        signed_share=value.signed_share,
        excess=_interval(value.excess),
        mean_size=value.mean_size,
        examples=[values.scored_example(one) for one in value.examples],
    )


def _effect(value: GroupEffect) -> jobs_pb2.GroupEffect:
    return jobs_pb2.GroupEffect(
        reweighting=_reweighting(value.column, value.group, value.factor),
        rows=value.rows,
        on_rows=_change(value.on_rows),
        on_rest=None if value.on_rest is None else _change(value.on_rest),
        gradient_norm=value.gradient_norm,
        iterations=value.iterations,
    )


def _change(value: CostChange) -> jobs_pb2.GroupEffect.CostChange:
    return jobs_pb2.GroupEffect.CostChange(
        cost=value.cost,
        measured=value.measured,
        predicted=value.predicted,
        corrected=value.corrected,
        accuracy=value.accuracy,
        accuracy_after=value.accuracy_after,
    )


def _reweighting(column: str, group: str, factor: float) -> jobs_pb2.Reweighting:
    return jobs_pb2.Reweighting(column=column, group=group, factor=factor)


def _interval(value: Interval) -> jobs_pb2.Interval:
    return jobs_pb2.Interval(value=value.value, low=value.low, high=value.high)
