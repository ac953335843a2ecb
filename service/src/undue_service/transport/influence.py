"""Influence jobs between messages and values of the domain. Pure."""

from undue.v1 import jobs_pb2
from undue_service.domain.influence import Influence

from . import fidelity
from .enums import MEASUREMENTS
from .scoring import read_measurement, read_method, write_method


def read_spec(message: jobs_pb2.InfluenceSpec) -> Influence:
    """Return the job that a request is about."""
    held = fidelity.read_settings("job.influence.fidelity", message.fidelity) if message.HasField("fidelity") else None
    return Influence(
        test=message.test,
        rows=tuple(message.rows),
        measurement=read_measurement(message.measurement),
        top_k=message.top_k if message.HasField("top_k") else None,
        aggregate="mean" if message.HasField("aggregate") else None,
        fidelity=held,
        **read_method(message),
    )


def write_spec(spec: Influence) -> jobs_pb2.InfluenceSpec:
    """Return the message of a job."""
    return jobs_pb2.InfluenceSpec(
        test=spec.test,
        rows=spec.rows,
        measurement=MEASUREMENTS.to_proto(spec.measurement),
        top_k=spec.top_k,
        aggregate=jobs_pb2.AGGREGATE_MEAN if spec.aggregate else None,
        fidelity=None if spec.fidelity is None else fidelity.write_settings(spec.fidelity),
        **write_method(spec),
    )
