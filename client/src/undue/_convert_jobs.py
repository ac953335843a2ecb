"""Messages of jobs and their results to values of the SDK. Pure functions."""

from typing import Any

from . import _convert_retraining
from ._convert import name, scale, stationarity
from ._errors import invalid
from ._inputs import Aggregate, Measurement, Normalization
from ._resources import (
    Estimate,
    JobState,
    Progress,
)
from ._results import Diagnostics, Explanation, Instances, ScoredExample, Value
from ._tensors import dtype_name
from .v1 import jobs_pb2, tensors_pb2

_MEASUREMENTS: dict[Measurement, jobs_pb2.Measurement.ValueType] = {
    "loss": jobs_pb2.MEASUREMENT_LOSS,
    "logit": jobs_pb2.MEASUREMENT_LOGIT,
    "margin": jobs_pb2.MEASUREMENT_MARGIN,
}


_AGGREGATES: dict[Aggregate, jobs_pb2.Aggregate.ValueType] = {"mean": jobs_pb2.AGGREGATE_MEAN}

_NORMALIZATIONS: dict[Normalization, jobs_pb2.Normalization.ValueType] = {
    "theta": jobs_pb2.NORMALIZATION_THETA,
    "loss": jobs_pb2.NORMALIZATION_LOSS,
}


def measurement(field: str, name: Measurement) -> jobs_pb2.Measurement.ValueType:
    """Return the number of a measurement.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if name not in _MEASUREMENTS:
        raise invalid(field, f"{name!r} is not one of {', '.join(_MEASUREMENTS)}")
    return _MEASUREMENTS[name]


def aggregate(field: str, name: Aggregate) -> jobs_pb2.Aggregate.ValueType:
    """Return the number of a way to make several costs one.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if name not in _AGGREGATES:
        raise invalid(field, f"{name!r} is not one of {', '.join(_AGGREGATES)}")
    return _AGGREGATES[name]


def normalization(field: str, name: Normalization) -> jobs_pb2.Normalization.ValueType:
    """Return the number of a normalization.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if name not in _NORMALIZATIONS:
        raise invalid(field, f"{name!r} is not one of {', '.join(_NORMALIZATIONS)}")
    return _NORMALIZATIONS[name]


def estimate(message: jobs_pb2.Estimate) -> Estimate:
    """Return what a job would take."""
    return Estimate(message.rows, message.peak_bytes, message.seconds)


def job_state(state: jobs_pb2.Job.State.ValueType) -> JobState:
    """Return the state of a job."""
    return JobState(name(jobs_pb2.Job.State, state, "STATE_"))


def progress(message: jobs_pb2.Job) -> Progress:
    """Return how far a job has come."""
    told = message.progress
    left = told.seconds_left if told.HasField("seconds_left") else None
    return Progress(job_state(message.state), told.stage, told.done, told.total, told.rate, left)


def job_spec(message: jobs_pb2.Job) -> dict[str, object]:
    """Return what a job was asked, by the names of the API; what was left unset is None."""
    kind = message.WhichOneof("spec")
    return {} if kind is None else _fields(getattr(message, kind))


def _fields(spec: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in spec.DESCRIPTOR.fields:
        value = getattr(spec, field.name)
        if field.is_repeated:
            of = field.message_type
            if of is None:
                found[field.name] = [_word(field.enum_type, each) if field.enum_type else each for each in value]
            elif not of.GetOptions().map_entry:  # a map holds numbers, which are not sent back
                found[field.name] = [
                    list(each.rows) if isinstance(each, jobs_pb2.RowSet) else _fields(each) for each in value
                ]
        elif field.message_type is tensors_pb2.Tensor.DESCRIPTOR:
            continue  # as above
        elif field.has_presence and not spec.HasField(field.name):
            found[field.name] = None
        elif field.message_type is not None:
            found[field.name] = _fields(value)
        elif field.enum_type is not None:
            found[field.name] = _word(field.enum_type, value)
        else:
            found[field.name] = value
    return found


def _word(enum: Any, number: int) -> str:
    word: str = enum.values_by_number[number].name.partition("_")[2].lower()
    return word


def explanation(message: jobs_pb2.Explanation, test: Instances | None, train: Instances | None) -> Explanation:
    """Return the value of an explanation; `test` and `train` are where the instances can be read."""
    return Explanation(
        row=message.row,
        id=message.id,
        prediction=value(message.prediction),
        target=value(message.target),
        loss=message.loss,
        helpful=tuple(scored_example(each, train) for each in message.helpful),
        harmful=tuple(scored_example(each, train) for each in message.harmful),
        rows=tuple(message.rows),
        _instances=test,
    )


def scored_example(message: jobs_pb2.ScoredExample, train: Instances | None) -> ScoredExample:
    """Return the value of a scored training row; `train` is where the instances can be read."""
    return ScoredExample(
        row=message.row,
        id=message.id,
        score=message.score,
        target=value(message.target),
        prediction=value(message.prediction),
        loss=message.loss,
        _instances=train,
    )


def diagnostics(message: jobs_pb2.Diagnostics) -> Diagnostics:
    """Return the value of a result's diagnostics."""
    sources = jobs_pb2.Diagnostics.DampingSource
    return Diagnostics(
        estimand=message.estimand,
        scale=scale(message.scale),
        method=message.method,
        damping=message.damping,
        damping_source=name(sources, message.damping_source, "DAMPING_SOURCE_").lower(),
        leverage_correction=message.leverage_correction,
        solver=message.solver,
        solver_status=message.solver_status,
        residual=message.residual,
        stationarity=stationarity(message.stationarity),
        recipe=message.recipe,
        seed=message.seed,
        dtype=dtype_name(message.dtype),
        device=message.device,
        digests=dict(message.digests),
        seconds=message.seconds,
        warnings=tuple(message.warnings),
        matvecs=message.matvecs,
        fidelity=_convert_retraining.finding(message.fidelity) if message.HasField("fidelity") else None,
    )


def value(message: tensors_pb2.Value) -> Value:
    """Return a label, a number, several numbers or nothing."""
    match message.WhichOneof("kind"):
        case "label":
            return message.label
        case "number":
            return message.number
        case "numbers":
            return tuple(message.numbers.values)
        case _:
            return None
