"""The settings of a method, as several kinds of job have them, between messages and values of the domain. Pure."""

from typing import Any, cast

from undue.v1 import jobs_pb2
from undue_service.domain.comparison import Compare
from undue_service.domain.group_influence import GroupInfluence
from undue_service.domain.specs import ScoringJob

from .enums import MEASUREMENTS, NORMALIZATIONS

ScoringMessage = (
    jobs_pb2.InfluenceSpec
    | jobs_pb2.SelfInfluenceSpec
    | jobs_pb2.FidelitySpec
    | jobs_pb2.GroupInfluenceSpec
    | jobs_pb2.CompareSpec
)

_PLAIN = ("model", "train", "method", "ensemble", "seed")
_OPTIONAL = ("damping", "leverage_correction", "tolerance", "max_iterations", "rank")


def read_method(message: ScoringMessage) -> dict[str, Any]:
    """Return what a request says of its model, its training data and its method; unset settings as None."""
    normalization = None
    if message.HasField("normalization"):
        normalization = NORMALIZATIONS.to_domain("normalization", message.normalization)
    return {
        **{name: getattr(message, name) for name in _PLAIN},
        **{name: getattr(message, name) if message.HasField(cast(Any, name)) else None for name in _OPTIONAL},
        "parameters": tuple(message.parameters),
        "normalization": normalization,
    }


def write_method(spec: ScoringJob) -> dict[str, Any]:
    """Return the same as fields of a message."""
    normalization = NORMALIZATIONS.to_proto(spec.normalization) if spec.normalization else None
    return {name: getattr(spec, name) for name in (*_PLAIN, *_OPTIONAL, "parameters")} | {
        "normalization": normalization
    }


def read_measurement(number: int) -> Any:
    """Return which cost a request is about; the loss where it says nothing."""
    return MEASUREMENTS.to_domain("measurement", number or jobs_pb2.MEASUREMENT_LOSS)


def read_settings(message: jobs_pb2.GroupInfluenceSpec | jobs_pb2.CompareSpec) -> dict[str, Any]:
    """Return what a request says of its model, its data sets and its method, and which rows it lists."""
    return {
        **read_method(message),
        "test": message.test,
        "rows": tuple(message.rows),
        "measurement": read_measurement(message.measurement),
        "top_k": message.top_k if message.HasField("top_k") else 10,
    }


def write_settings(spec: GroupInfluence | Compare) -> dict[str, Any]:
    """Return the same as fields of a message."""
    return {
        **write_method(spec),
        "test": spec.test,
        "rows": spec.rows,
        "measurement": MEASUREMENTS.to_proto(spec.measurement),
        "top_k": spec.top_k,
    }
