"""Self-influence jobs between messages and values of the domain. Pure."""

from undue.v1 import jobs_pb2
from undue_service.domain.self_influence import SelfInfluence

from .scoring import read_method, write_method


def read_spec(message: jobs_pb2.SelfInfluenceSpec) -> SelfInfluence:
    """Return the job that a request is about."""
    return SelfInfluence(top_k=message.top_k if message.HasField("top_k") else None, **read_method(message))


def write_spec(spec: SelfInfluence) -> jobs_pb2.SelfInfluenceSpec:
    """Return the message of a job."""
    return jobs_pb2.SelfInfluenceSpec(top_k=spec.top_k, **write_method(spec))
