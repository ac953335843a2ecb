"""Messages of the API to values of the SDK. Pure functions."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from ._architectures import ArchitectureInfo, ArchitectureOption, architecture
from ._errors import Internal
from ._inputs import Objective, ObjectiveName
from ._recipes import Optimizer, Schedule, Training, WeightsFormat, is_initialiser
from ._resources import (
    CheckpointInfo,
    Dataset,
    DatasetReport,
    Example,
    Failure,
    Group,
    Limits,
    MethodInfo,
    Model,
    ModelReport,
    ParameterInfo,
    Parity,
    RunnerInfo,
    ServerInfo,
    State,
    Stationarity,
    TensorSpec,
)
from ._schema import Schema
from ._status import from_status
from ._tensors import decode, decode_texts, dtype_name
from .v1 import datasets_pb2, jobs_pb2, models_pb2, server_info_pb2, tensors_pb2

_LOSSES: dict[ObjectiveName, models_pb2.Objective.Loss.ValueType] = {
    "cross_entropy": models_pb2.Objective.LOSS_CROSS_ENTROPY,
    "binary_logistic": models_pb2.Objective.LOSS_BINARY_LOGISTIC,
    "squared_error": models_pb2.Objective.LOSS_SQUARED_ERROR,
    "smooth_hinge": models_pb2.Objective.LOSS_SMOOTH_HINGE,
}

_OPTIMIZERS: dict[Optimizer, models_pb2.Training.Optimizer.ValueType] = {
    "sgd": models_pb2.Training.OPTIMIZER_SGD,
    "adam": models_pb2.Training.OPTIMIZER_ADAM,
}

_SCHEDULES: dict[Schedule | None, models_pb2.Training.Schedule.ValueType] = {
    None: models_pb2.Training.SCHEDULE_UNSPECIFIED,
    "linear": models_pb2.Training.SCHEDULE_LINEAR,
    "cosine": models_pb2.Training.SCHEDULE_COSINE,
}

WEIGHTS_FORMATS: dict[WeightsFormat, models_pb2.WeightsFile.Format.ValueType] = {
    "safetensors": models_pb2.WeightsFile.FORMAT_SAFETENSORS,
    "onnx": models_pb2.WeightsFile.FORMAT_ONNX,
    "pt2": models_pb2.WeightsFile.FORMAT_PT2,
}

_OBJECTIVES = {loss: name for name, loss in _LOSSES.items()}


def objective_message(objective: Objective) -> models_pb2.Objective:
    """Return the message of an objective."""
    return models_pb2.Objective(
        loss=_LOSSES[objective.name],
        l2=objective.l2,
        l2_exclude=objective.l2_exclude,
        temperature=objective.temperature or 0.0,
    )


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


def training_message(training: Training) -> models_pb2.Training:
    """Return the message of a recipe, without a file of weights that it begins with."""
    message = models_pb2.Training(
        optimizer=_OPTIMIZERS[training.optimizer],
        lr=training.lr,
        epochs=training.epochs,
        batch_size=training.batch_size,
        momentum=training.momentum,
        beta1=training.betas[0],
        beta2=training.betas[1],
        eps=training.eps,
        schedule=_SCHEDULES[training.schedule],
        seed=training.seed,
    )
    if is_initialiser(training.init):
        message.initialiser = models_pb2.Training.INITIALISER_TORCH
    return message


def model(message: models_pb2.Model) -> Model:
    """Return the value of a model."""
    objective = message.objective
    return Model(
        name=message.name,
        state=State(name(models_pb2.Model.State, message.state, "STATE_")),
        format=name(models_pb2.Model.Format, message.format, "FORMAT_").lower(),
        objective=Objective(
            _OBJECTIVES[objective.loss], objective.l2, objective.l2_exclude, objective.temperature or None
        ),
        parameters=tuple(message.parameters),
        output=message.output or None,
        sample=message.sample or None,
        report=_model_report(message.report) if message.HasField("report") else None,
        failure=failure(message.error, message.name) if message.HasField("error") else None,
        validation_job=message.validation_job,
        create_time=moment(message.create_time),
        etag=message.etag,
        training=_training(message.training) if message.HasField("training") else None,
        checkpoints=_checkpoints(message),
        architecture=architecture(message.architecture) if message.HasField("architecture") else None,
    )


def _training(message: models_pb2.Training) -> Training:
    kinds, start = models_pb2.Training, message.WhichOneof("init")
    schedule = name(kinds.Schedule, message.schedule, "SCHEDULE_").lower()
    drawn = name(kinds.Initialiser, message.initialiser, "INITIALISER_").lower()
    return Training(
        optimizer=cast(Any, name(kinds.Optimizer, message.optimizer, "OPTIMIZER_").lower()),
        lr=message.lr,
        epochs=message.epochs,
        batch_size=message.batch_size if message.HasField("batch_size") else None,
        schedule=None if schedule == "unspecified" else cast(Any, schedule),
        momentum=message.momentum,
        betas=(message.beta1, message.beta2),
        eps=message.eps,
        seed=message.seed,
        init={"weights": "weights", "initialiser": drawn, None: None}[start],
    )


def _checkpoints(message: models_pb2.Model) -> tuple[CheckpointInfo, ...]:
    found = [
        stationarity(one.stationarity) if one.HasField("stationarity") else None for one in message.report.checkpoints
    ]
    found += [None] * (len(message.checkpoints) - len(found))
    pairs = zip(message.checkpoints, found, strict=True)
    return tuple(CheckpointInfo(one.learning_rate, fit) for one, fit in pairs)


def _model_report(message: models_pb2.ModelReport) -> ModelReport:
    parity = message.parity
    return ModelReport(
        inputs=_tensor_specs(message.inputs),
        outputs=tuple(message.outputs),
        parameters=tuple(_parameter(one) for one in message.parameters),
        dtype=dtype_name(message.dtype),
        linear_head=message.linear_head,
        output_activation=message.output_activation,
        parity=Parity(parity.max_abs_difference, parity.rows) if message.HasField("parity") else None,
        stationarity=stationarity(message.stationarity) if message.HasField("stationarity") else None,
        warnings=tuple(message.warnings),
        output=message.output,
    )


def _parameter(message: models_pb2.ParameterInfo) -> ParameterInfo:
    uses = (models_pb2.ParameterInfo.Use.Name(use).removeprefix("USE_").lower() for use in message.uses)
    return ParameterInfo(message.name, tuple(message.shape), message.selected, message.l2, tuple(uses))


def dataset(message: datasets_pb2.Dataset) -> Dataset:
    """Return the value of a data set."""
    formats = datasets_pb2.FileSource.Format
    file_format = name(formats, message.file.format, "FORMAT_").lower()
    return Dataset(
        name=message.name,
        state=State(name(datasets_pb2.Dataset.State, message.state, "STATE_")),
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


def examples(block: datasets_pb2.RowBlock, dataset: str) -> list[Example]:
    """Return the instances in a block of rows of a data set."""
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
            dataset=dataset,
        )
        for place, row in enumerate(block.rows)
    ]


def server_info(message: server_info_pb2.ServerInfo) -> ServerInfo:
    """Return the value of what an installation is."""
    states = server_info_pb2.RunnerInfo.State
    limits = message.limits
    return ServerInfo(
        version=message.version,
        methods=tuple(_method(one) for one in message.methods),
        limits=Limits(limits.max_upload_bytes, limits.max_chunk_bytes, limits.max_page_size),
        devices=tuple(device.name for device in message.devices),
        runners=tuple(RunnerInfo(r.pid, r.device, r.lane, name(states, r.state, "STATE_")) for r in message.runners),
        libraries=dict(message.libraries),
        architectures=tuple(_architecture_info(one) for one in message.architectures),
    )


def _architecture_info(message: server_info_pb2.ArchitectureInfo) -> ArchitectureInfo:
    options = (
        ArchitectureOption(o.name, o.meaning, o.allowed, o.default_value if o.HasField("default_value") else None)
        for o in message.options
    )
    return ArchitectureInfo(message.name, message.built_in, message.meaning, tuple(options))


def _method(message: server_info_pb2.MethodInfo) -> MethodInfo:
    return MethodInfo(
        name=message.name,
        scale=scale(message.scale),
        estimand=message.estimand,
        uses_damping=message.uses_damping,
        is_iterative=message.is_iterative,
        has_leverage_correction=message.has_leverage_correction,
        rank=message.rank,
        has_normalization=message.has_normalization,
        needs_checkpoints=message.needs_checkpoints,
        draws_at_random=message.draws_at_random,
        has_self_influence=message.has_self_influence,
        parameter_limit=message.parameter_limit or None,
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


def stationarity(message: models_pb2.Stationarity) -> Stationarity:
    return Stationarity(message.gradient_norm, message.relative, message.mean_loss)


def name(enum: Any, number: int, prefix: str) -> str:
    """Return the name of an enum's value without its prefix.

    Raises:
        Internal: the service is newer than this SDK.
    """
    if number not in enum.values():
        text = f"the service sent {prefix}{number}, which this SDK does not know: upgrade undue"
        raise Internal(text)
    return str(enum.Name(number)).removeprefix(prefix)


def scale(scale: jobs_pb2.Scale.ValueType) -> str:
    return name(jobs_pb2.Scale, scale, "SCALE_").lower()
