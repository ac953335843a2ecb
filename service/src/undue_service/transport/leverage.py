"""Leverage jobs between messages and values of the domain. Pure."""

from undue.v1 import jobs_pb2
from undue_service.domain.leverage import Leverage


def read_spec(message: jobs_pb2.LeverageSpec) -> Leverage:
    """Return the job that a request is about."""
    damping = message.damping if message.HasField("damping") else None
    return Leverage(model=message.model, train=message.train, damping=damping, dfbeta=message.dfbeta)


def write_spec(spec: Leverage) -> jobs_pb2.LeverageSpec:
    """Return the message of a job."""
    return jobs_pb2.LeverageSpec(model=spec.model, train=spec.train, damping=spec.damping, dfbeta=spec.dfbeta)
