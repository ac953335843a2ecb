"""The settings of a method, as several kinds of job have them, between messages and values of the domain. Pure."""

from typing import Any, cast

from undue.v1 import jobs_pb2
from undue_service.domain.comparison import Compare
from undue_service.domain.group_influence import GroupInfluence

from .enums import MEASUREMENTS, NORMALIZATIONS

_PLAIN = ("method", "ensemble", "seed")
_OPTIONAL = ("damping", "leverage_correction", "tolerance", "max_iterations", "rank")


def read_settings(message: jobs_pb2.GroupInfluenceSpec | jobs_pb2.CompareSpec) -> dict[str, Any]:
    """Return what a request says of its model, its data sets and its method; unset settings as None."""
    named = {name: getattr(message, name) for name in ("model", "train", "test", *_PLAIN)}
    optional = {name: getattr(message, name) if message.HasField(cast(Any, name)) else None for name in _OPTIONAL}
    normalization = None
    if message.HasField("normalization"):
        normalization = NORMALIZATIONS.to_domain("normalization", message.normalization)
    return {
        **named,
        **optional,
        "rows": tuple(message.rows),
        "parameters": tuple(message.parameters),
        "measurement": MEASUREMENTS.to_domain("measurement", message.measurement or jobs_pb2.MEASUREMENT_LOSS),
        "normalization": normalization,
        "top_k": message.top_k if message.HasField("top_k") else 10,
    }


def write_settings(spec: GroupInfluence | Compare) -> dict[str, Any]:
    """Return the same as fields of a message."""
    names = ("model", "train", "test", "rows", "parameters", "top_k", *_PLAIN, *_OPTIONAL)
    return {name: getattr(spec, name) for name in names} | {
        "measurement": MEASUREMENTS.to_proto(spec.measurement),
        "normalization": NORMALIZATIONS.to_proto(spec.normalization) if spec.normalization else None,
    }
