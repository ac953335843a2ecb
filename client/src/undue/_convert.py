"""Messages of the API to values of the SDK. Pure functions."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from ._errors import Internal, invalid
from ._inputs import Aggregate, Measurement, Objective, ObjectiveName
from ._resources import (
    Dataset,
    DatasetReport,
    Estimate,
    Example,
    Failure,
    Group,
    JobState,
    Limits,
    MethodInfo,
    Model,
    ModelReport,
    ParameterInfo,
    Parity,
    Progress,
    RunnerInfo,
    ServerInfo,
    State,
    Stationarity,
    TensorSpec,
)
from ._results import Counterfactual, Diagnostics, Explanation, Instances, ScoredExample, Value
from ._schema import Schema
from ._status import from_status
from ._tensors import decode, decode_texts, dtype_name
from .v1 import datasets_pb2, jobs_pb2, models_pb2, server_info_pb2, tensors_pb2

_LOSSES: dict[ObjectiveName, models_pb2.Objective.Loss.ValueType] = {
    "cross_entropy": models_pb2.Objective.LOSS_CROSS_ENTROPY,
    "binary_logistic": models_pb2.Objective.LOSS_BINARY_LOGISTIC,
    "squared_error": models_pb2.Objective.LOSS_SQUARED_ERROR,
}
_OBJECTIVES = {loss: name for name, loss in _LOSSES.items()}
_MEASUREMENTS: dict[Measurement, jobs_pb2.Measurement.ValueType] = {
    "loss": jobs_pb2.MEASUREMENT_LOSS,
    "logit": jobs_pb2.MEASUREMENT_LOGIT,
    "margin": jobs_pb2.MEASUREMENT_MARGIN,
}

_AGGREGATES: dict[Aggregate, jobs_pb2.Aggregate.ValueType] = {"mean": jobs_pb2.AGGREGATE_MEAN}


def objective_message(objective: Objective) -> models_pb2.Objective:
    """Return the message of an objective."""
    return models_pb2.Objective(loss=_LOSSES[objective.name], l2=objective.l2, l2_exclude=objective.l2_exclude)


def schema_message(schema: Schema) -> datasets_pb2.Schema:
    """Return the message of a schema."""
    message = datasets_pb2.Schema(target=schema.target or "", id=schema.id or "", weight=schema.weight or "")
    message.groups.extend(schema.groups)
    for name, each in schema.inputs.items():
        columns = message.inputs[name]
        columns.columns.extend(each.columns)
        if each.is_transformed:
            transform = datasets_pb2.Transform(row_shape=each.row_shape, scale=each.scale, mean=each.mean, std=each.std)
            columns.transform.CopyFrom(transform)
    return message


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


def model(message: models_pb2.Model) -> Model:
    """Return the value of a model."""
    objective = message.objective
    return Model(
        name=message.name,
        state=State(_name(models_pb2.Model.State, message.state, "STATE_")),
        format=_name(models_pb2.Model.Format, message.format, "FORMAT_").lower(),
        objective=Objective(_OBJECTIVES[objective.loss], objective.l2, objective.l2_exclude),
        parameters=tuple(message.parameters),
        output=message.output or None,
        sample=message.sample or None,
        report=_model_report(message.report) if message.HasField("report") else None,
        failure=failure(message.error, message.name) if message.HasField("error") else None,
        validation_job=message.validation_job,
        create_time=moment(message.create_time),
        etag=message.etag,
    )


def _model_report(message: models_pb2.ModelReport) -> ModelReport:
    parity = message.parity
    return ModelReport(
        inputs=_tensor_specs(message.inputs),
        outputs=tuple(message.outputs),
        parameters=tuple(ParameterInfo(p.name, tuple(p.shape), p.selected, p.l2) for p in message.parameters),
        dtype=dtype_name(message.dtype),
        linear_head=message.linear_head,
        output_activation=message.output_activation,
        parity=Parity(parity.max_abs_difference, parity.rows) if message.HasField("parity") else None,
        stationarity=_stationarity(message.stationarity) if message.HasField("stationarity") else None,
        warnings=tuple(message.warnings),
    )


def dataset(message: datasets_pb2.Dataset) -> Dataset:
    """Return the value of a data set."""
    formats = datasets_pb2.FileSource.Format
    file_format = _name(formats, message.file.format, "FORMAT_").lower()
    return Dataset(
        name=message.name,
        state=State(_name(datasets_pb2.Dataset.State, message.state, "STATE_")),
        format=file_format if message.HasField("file") else "arrays",
        report=_dataset_report(message.report) if message.HasField("report") else None,
        failure=failure(message.error, message.name) if message.HasField("error") else None,
        validation_job=message.validation_job,
        create_time=moment(message.create_time),
        etag=message.etag,
        uri=message.file.uri or None,
    )


def _dataset_report(message: datasets_pb2.DatasetReport) -> DatasetReport:
    return DatasetReport(
        rows=message.rows,
        inputs=_tensor_specs(message.inputs),
        target=_tensor_specs([message.target])[0] if message.HasField("target") else None,
        has_ids=message.has_ids,
        has_weights=message.has_weights,
        digest=message.digest,
        groups=tuple(Group(each.name, each.values) for each in message.groups),
        classes=tuple(message.classes),
        files=tuple(message.files),
    )


def examples(block: datasets_pb2.RowBlock) -> list[Example]:
    """Return the instances in a block of rows."""
    inputs = {name: decode(tensor) for name, tensor in block.inputs.items()}
    targets = decode(block.targets) if block.HasField("targets") else None
    weights = decode(block.weights) if block.HasField("weights") else None
    ids, groups = decode_texts(block.ids), {name: decode_texts(tensor) for name, tensor in block.groups.items()}
    return [
        Example(
            row=row,
            id=ids[place],
            inputs={name: array[place] for name, array in inputs.items()},
            target=None if targets is None else _scalar(targets[place]),
            weight=None if weights is None else float(weights[place]),
            groups={name: values[place] for name, values in groups.items()},
        )
        for place, row in enumerate(block.rows)
    ]


def estimate(message: jobs_pb2.Estimate) -> Estimate:
    """Return what a job would take."""
    return Estimate(message.rows, message.peak_bytes, message.seconds)


def job_state(state: jobs_pb2.Job.State.ValueType) -> JobState:
    """Return the state of a job."""
    return JobState(_name(jobs_pb2.Job.State, state, "STATE_"))


def progress(message: jobs_pb2.Job) -> Progress:
    """Return how far a job has come."""
    return Progress(job_state(message.state), message.progress.stage, message.progress.done, message.progress.total)


def job_spec(message: jobs_pb2.Job) -> dict[str, object]:
    """Return what a job was asked, by the names of the API; what was left unset is None."""
    kind = message.WhichOneof("spec")
    if kind is None:
        return {}
    spec = getattr(message, kind)
    found: dict[str, object] = {}
    for field in spec.DESCRIPTOR.fields:
        value = getattr(spec, field.name)
        if field.is_repeated:
            rows_of_sets = field.message_type is not None  # RowSet is the only message that repeats in a spec
            found[field.name] = [list(each.rows) for each in value] if rows_of_sets else list(value)
        elif field.has_presence and not spec.HasField(field.name):
            found[field.name] = None
        elif field.enum_type is not None:
            found[field.name] = field.enum_type.values_by_number[value].name.partition("_")[2].lower()
        else:
            found[field.name] = value
    return found


def explanation(message: jobs_pb2.Explanation, test: Instances | None, train: Instances | None) -> Explanation:
    """Return the value of an explanation; `test` and `train` are where the instances can be read."""
    return Explanation(
        row=message.row,
        id=message.id,
        prediction=_value(message.prediction),
        target=_value(message.target),
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
        target=_value(message.target),
        prediction=_value(message.prediction),
        loss=message.loss,
        _instances=train,
    )


def counterfactual(message: jobs_pb2.Counterfactual) -> Counterfactual:
    """Return the value of a counterfactual."""
    return Counterfactual(
        index=message.index,
        without=tuple(message.without),
        changes=numbers(message.changes),
        gradient_norm=message.gradient_norm,
        iterations=message.iterations,
    )


def numbers(values: Iterable[float]) -> npt.NDArray[np.float64]:
    """Return numbers as an array that is not written to."""
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


def diagnostics(message: jobs_pb2.Diagnostics) -> Diagnostics:
    """Return the value of a result's diagnostics."""
    sources = jobs_pb2.Diagnostics.DampingSource
    return Diagnostics(
        estimand=message.estimand,
        scale=_scale(message.scale),
        method=message.method,
        damping=message.damping,
        damping_source=_name(sources, message.damping_source, "DAMPING_SOURCE_").lower(),
        leverage_correction=message.leverage_correction,
        solver=message.solver,
        solver_status=message.solver_status,
        residual=message.residual,
        stationarity=_stationarity(message.stationarity),
        recipe=message.recipe,
        seed=message.seed,
        dtype=dtype_name(message.dtype),
        device=message.device,
        digests=dict(message.digests),
        seconds=message.seconds,
        warnings=tuple(message.warnings),
        matvecs=message.matvecs,
    )


def server_info(message: server_info_pb2.ServerInfo) -> ServerInfo:
    """Return the value of what an installation is."""
    states = server_info_pb2.RunnerInfo.State
    limits = message.limits
    return ServerInfo(
        version=message.version,
        methods=tuple(MethodInfo(m.name, _scale(m.scale), m.estimand, m.uses_damping) for m in message.methods),
        limits=Limits(limits.max_upload_bytes, limits.max_chunk_bytes, limits.max_page_size),
        devices=tuple(device.name for device in message.devices),
        runners=tuple(RunnerInfo(r.pid, r.device, r.lane, _name(states, r.state, "STATE_")) for r in message.runners),
        libraries=dict(message.libraries),
    )


def failure(status: status_pb2.Status, name: str) -> Failure:
    """Return why something failed."""
    error = from_status(status, name)
    return Failure(error.reason, status.message, error.metadata)


def moment(timestamp: Timestamp) -> datetime:
    """Return a point in time, in UTC."""
    return timestamp.ToDatetime(tzinfo=UTC)


def _scalar(value: Any) -> Any:
    return value.item() if value.ndim == 0 else value


def _tensor_specs(messages: Iterable[tensors_pb2.TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(each.name, dtype_name(each.dtype), tuple(each.row_shape)) for each in messages)


def _stationarity(message: models_pb2.Stationarity) -> Stationarity:
    return Stationarity(message.gradient_norm, message.relative, message.mean_loss)


def _name(enum: Any, number: int, prefix: str) -> str:
    """Return the name of an enum's value without its prefix.

    Raises:
        Internal: the service is newer than this SDK.
    """
    if number not in enum.values():
        text = f"the service sent {prefix}{number}, which this SDK does not know: upgrade undue"
        raise Internal(text)
    return str(enum.Name(number)).removeprefix(prefix)


def _scale(scale: jobs_pb2.Scale.ValueType) -> str:
    return _name(jobs_pb2.Scale, scale, "SCALE_").lower()


def _value(message: tensors_pb2.Value) -> Value:
    match message.WhichOneof("kind"):
        case "label":
            return message.label
        case "number":
            return message.number
        case "numbers":
            return tuple(message.numbers.values)
        case _:
            return None
