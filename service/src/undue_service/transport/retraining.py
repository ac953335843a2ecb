"""Retrain jobs between messages and values of the domain. Pure."""

from undue.v1 import jobs_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.retraining import Retrain

from . import edits, fidelity
from .enums import MEASUREMENTS, STARTS
from .scoring import read_measurement

MAX_WITHOUT_ROWS = 1_000_000
"""Of all counterfactuals of a job together."""


def read_spec(message: jobs_pb2.RetrainSpec) -> Retrain:
    """Return the job that a request is about.

    Raises:
        InvalidArgument: INVALID_FIELD where it names no counterfactual, or too many rows; as `edits.read`.
    """
    without = tuple(tuple(one.rows) for one in message.without)
    if not without and not message.counterfactuals:
        text = "is empty, and so is counterfactuals: name training rows that are left out, or edits of some"
        raise InvalidArgument.at("job.retrain.without", text)
    if sum(map(len, without)) > MAX_WITHOUT_ROWS:
        raise InvalidArgument.at("job.retrain.without", f"names more than {MAX_WITHOUT_ROWS:,} rows in all")
    return Retrain(
        model=message.model,
        train=message.train,
        test=message.test,
        without=without,
        counterfactuals=edits.read(message),
        rows=tuple(message.rows),
        measurement=read_measurement(message.measurement),
        tolerance=message.tolerance if message.HasField("tolerance") else None,
        max_iterations=message.max_iterations if message.HasField("max_iterations") else None,
        start=fidelity.read_start("job.retrain.start", message),
        seeds=message.seeds if message.HasField("seeds") else 1,
    )


def write_spec(spec: Retrain) -> jobs_pb2.RetrainSpec:
    """Return the message of a job."""
    return jobs_pb2.RetrainSpec(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        rows=spec.rows,
        measurement=MEASUREMENTS.to_proto(spec.measurement),
        without=[jobs_pb2.RowSet(rows=rows) for rows in spec.without],
        counterfactuals=[edits.write(one) for one in spec.counterfactuals],
        tolerance=spec.tolerance,
        max_iterations=spec.max_iterations,
        start=None if spec.start is None else STARTS.to_proto(spec.start),
        seeds=spec.seeds,
    )
