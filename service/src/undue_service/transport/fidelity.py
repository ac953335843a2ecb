"""Fidelity jobs, how they hold scores against retraining, and what they found, as messages and as values. Pure."""

from typing import Any, cast

from undue.v1 import jobs_pb2
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.reports import Agreement, FidelityFinding, Interval
from undue_service.domain.results import Comparison

from .enums import MEASUREMENTS, PROTOCOLS, STARTS
from .scoring import read_measurement, read_method, write_method

_OPTIONAL = ("samples", "strata", "share", "seeds", "bootstrap")


def read_spec(message: jobs_pb2.FidelitySpec) -> Fidelity:
    """Return the job that a request is about."""
    return Fidelity(
        test=message.test,
        settings=read_settings("job.fidelity.settings", message.settings),
        rows=tuple(message.rows),
        measurement=read_measurement(message.measurement),
        **read_method(message),
    )


def write_spec(spec: Fidelity) -> jobs_pb2.FidelitySpec:
    """Return the message of a job."""
    return jobs_pb2.FidelitySpec(
        test=spec.test,
        settings=write_settings(spec.settings),
        rows=spec.rows,
        measurement=MEASUREMENTS.to_proto(spec.measurement),
        **write_method(spec),
    )


def read_settings(field: str, message: jobs_pb2.FidelitySettings) -> FidelitySettings:
    """Return the settings of a request, those that are unset at their defaults."""
    given = {name: getattr(message, name) for name in _OPTIONAL if message.HasField(cast(Any, name))}
    return FidelitySettings(
        protocol=cast(Any, PROTOCOLS.to_domain(f"{field}.protocol", message.protocol)),
        start=read_start(f"{field}.start", message),
        seed=message.seed,
        **given,
    )


def read_start(
    field: str, message: jobs_pb2.FidelitySettings | jobs_pb2.RetrainSpec | jobs_pb2.GroupInfluenceSpec
) -> Any:
    """Return where training begins; None where that is left open."""
    return STARTS.to_domain(field, message.start) if message.HasField("start") else None


def write_settings(value: FidelitySettings) -> jobs_pb2.FidelitySettings:
    """Return the message of some settings."""
    return jobs_pb2.FidelitySettings(
        protocol=PROTOCOLS.to_proto(value.protocol),
        samples=value.samples,
        strata=value.strata,
        share=value.share,
        seeds=value.seeds,
        start=None if value.start is None else STARTS.to_proto(value.start),
        bootstrap=value.bootstrap,
        seed=value.seed,
    )


def write_finding(value: FidelityFinding) -> jobs_pb2.FidelityFinding:
    """Return how well scores foretell what retraining does."""
    strata = [jobs_pb2.Stratum(low=one.low, high=one.high, agreement=_agreement(one.agreement)) for one in value.strata]
    return jobs_pb2.FidelityFinding(
        protocol=PROTOCOLS.to_proto(value.protocol),
        recipe=value.recipe,
        agreement=_agreement(value.agreement),
        strata=strata,
        lds=None if value.lds is None else _interval(value.lds),
        seconds=value.seconds,
        warnings=value.warnings,
    )


def write_comparison(value: Comparison) -> jobs_pb2.Comparison:
    """Return what was predicted of one retraining, and what was measured."""
    return jobs_pb2.Comparison(
        index=value.index,
        without=value.without,
        subset=value.subset,
        stratum=value.stratum,
        predicted=value.predicted,
        measured=value.measured,
    )


def _agreement(value: Agreement) -> jobs_pb2.Agreement:
    return jobs_pb2.Agreement(
        pearson=_interval(value.pearson),
        spearman=_interval(value.spearman),
        slope=_interval(value.slope),
        retrainings=value.retrainings,
        pairs=value.pairs,
    )


def _interval(value: Interval) -> jobs_pb2.Interval:
    return jobs_pb2.Interval(value=value.value, low=value.low, high=value.high)
