"""Requests of the API into values of the domain. Pure but for `Digest`, which turns bytes into artifacts."""

import math
from collections.abc import Callable
from typing import Any, cast

from google.protobuf.message import Message

from undue.v1 import datasets_pb2, jobs_pb2, models_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import (
    ArraysSource,
    DataSource,
    FileSource,
    Influence,
    ModelSpec,
    ObjectiveSpec,
    SchemaSpec,
    SelfInfluence,
    TensorRef,
)

from .enums import DTYPES, FILE_FORMATS, FORMATS, LOSSES, MEASUREMENTS

Digest = Callable[[str, str | bytes], str]
"""(field, upload name or bytes) → sha256 of the artifact that holds them."""

MAX_INPUTS = 256
MAX_COLUMNS = 100_000
MAX_PATTERNS = 1_000
MAX_ROWS = 10_000
MAX_TOP_K = 1_000
MAX_TIMEOUT_SECONDS = 10 * 365 * 86_400

ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
}
ITEM_BYTES |= {"int64": 8, "uint64": 8, "float64": 8}


def model_spec(request: models_pb2.CreateModelRequest, digest: Digest) -> ModelSpec:
    """Return the model that a request registers.

    Raises:
        InvalidArgument: a field is missing or wrong.
    """
    model = request.model
    _require("model.upload", model.upload)
    if not model.HasField("objective"):
        raise InvalidArgument.at("model.objective", "is required: what the weights minimise")
    for name, patterns in (("parameters", model.parameters), ("objective.l2_exclude", model.objective.l2_exclude)):
        if len(patterns) > MAX_PATTERNS:
            raise InvalidArgument.at(f"model.{name}", f"has {len(patterns):,} patterns; at most {MAX_PATTERNS:,}")
    return ModelSpec(
        format=cast(Any, FORMATS.to_domain("model.format", model.format)),
        digest=digest("model.upload", model.upload),
        objective=_objective(model.objective),
        parameters=tuple(model.parameters),
        output=model.output or None,
        sample=model.sample or None,
    )


def data_source(request: datasets_pb2.CreateDatasetRequest, digest: Digest) -> DataSource:
    """Return the data set that a request registers.

    Raises:
        InvalidArgument: a field is missing or wrong.
    """
    dataset = request.dataset
    match dataset.WhichOneof("source"):
        case "arrays":
            return _arrays(dataset.arrays, digest)
        case "file":
            return _file(dataset.file, digest)
        case _:
            raise InvalidArgument.at("dataset.source", "is required: arrays or a file")


def job_spec(request: jobs_pb2.CreateJobRequest) -> tuple[Influence | SelfInfluence, float]:
    """Return the job that a request queues, and its time limit.

    Raises:
        InvalidArgument: a field is missing or wrong.
    """
    timeout = request.job.timeout_seconds
    if not 0 <= timeout <= MAX_TIMEOUT_SECONDS:
        text = f"must be at most {MAX_TIMEOUT_SECONDS:,} seconds, or 0 for no limit"
        raise InvalidArgument.at("job.timeout_seconds", text)
    match request.job.WhichOneof("spec"):
        case "influence":
            return _influence(request.job.influence), timeout
        case "self_influence":
            return _self_influence(request.job.self_influence), timeout
        case "model_validation" | "dataset_validation":
            raise InvalidArgument.at("job.spec", "a validation is started by CreateModel or CreateDataset")
        case _:
            raise InvalidArgument.at("job.spec", "is required")


def _objective(objective: models_pb2.Objective) -> ObjectiveSpec:
    if not (math.isfinite(objective.l2) and objective.l2 >= 0):
        raise InvalidArgument.at("model.objective.l2", f"{objective.l2} must be a finite number of at least 0")
    loss = LOSSES.to_domain("model.objective.loss", objective.loss)
    return ObjectiveSpec(cast(Any, loss), objective.l2, tuple(objective.l2_exclude))


def _arrays(arrays: datasets_pb2.ArraysSource, digest: Digest) -> ArraysSource:
    if not arrays.inputs:
        raise InvalidArgument.at("dataset.arrays.inputs", "is required: at least one array")
    if len(arrays.inputs) > MAX_INPUTS:
        raise InvalidArgument.at("dataset.arrays.inputs", f"has {len(arrays.inputs)} arrays; at most {MAX_INPUTS}")

    def optional(name: str) -> TensorRef | None:
        return (
            _tensor(f"dataset.arrays.{name}", getattr(arrays, name), digest)
            if arrays.HasField(cast(Any, name))
            else None
        )

    inputs = {
        name: _tensor(f"dataset.arrays.inputs[{name}]", tensor, digest)
        for name, tensor in sorted(arrays.inputs.items())
    }
    return ArraysSource(inputs, optional("targets"), optional("ids"), optional("weights"))


def _tensor(field: str, tensor: tensors_pb2.Tensor, digest: Digest) -> TensorRef:
    dtype = DTYPES.to_domain(f"{field}.dtype", tensor.dtype)
    item = ITEM_BYTES.get(dtype)  # a string has no fixed size
    shape = tuple(tensor.shape)
    if not 1 <= len(shape) <= 8 or min(shape) < 0 or math.prod(shape) >= 1 << 48:
        raise InvalidArgument.at(
            f"{field}.shape", f"{shape} must have 1 to 8 axes, none negative, the first of them rows"
        )
    match tensor.WhichOneof("content"):
        case "data":
            if item is not None and len(tensor.data) != item * math.prod(shape):
                text = f"{len(tensor.data):,} bytes; {dtype} of shape {shape} has {item * math.prod(shape):,}"
                raise InvalidArgument.at(f"{field}.data", text)
            return TensorRef(dtype, shape, digest(f"{field}.data", tensor.data))
        case "upload":
            return TensorRef(dtype, shape, digest(f"{field}.upload", tensor.upload))
        case _:
            raise InvalidArgument.at(f"{field}.content", "is required: data or upload")


def _file(file: datasets_pb2.FileSource, digest: Digest) -> FileSource:
    _require("dataset.file.upload", file.upload)
    schema = file.schema
    if not schema.inputs or not all(columns.columns for columns in schema.inputs.values()):
        raise InvalidArgument.at("dataset.file.schema.inputs", "is required: the columns of each input")
    if sum(len(columns.columns) for columns in schema.inputs.values()) > MAX_COLUMNS:
        raise InvalidArgument.at("dataset.file.schema.inputs", f"names more than {MAX_COLUMNS:,} columns")
    inputs = {name: tuple(columns.columns) for name, columns in sorted(schema.inputs.items())}
    spec = SchemaSpec(inputs, schema.target or None, schema.id or None, schema.weight or None)
    format_ = FILE_FORMATS.to_domain("dataset.file.format", file.format)
    return FileSource(cast(Any, format_), digest("dataset.file.upload", file.upload), spec)


def _influence(spec: jobs_pb2.InfluenceSpec) -> Influence:
    _require_names("job.influence", spec, ("model", "train", "test", "method"))
    if len(spec.rows) > MAX_ROWS:
        text = f"{len(spec.rows):,} rows; name at most {MAX_ROWS:,}, or none for all"
        raise InvalidArgument.at("job.influence.rows", text)
    negative = [row for row in spec.rows if row < 0]
    if negative:
        raise InvalidArgument.at("job.influence.rows", f"{negative[0]} is negative; rows count from 0")
    measurement = spec.measurement or jobs_pb2.MEASUREMENT_LOSS
    return Influence(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        rows=tuple(spec.rows),
        method=spec.method,
        measurement=cast(Any, MEASUREMENTS.to_domain("job.influence.measurement", measurement)),
        damping=_damping("job.influence", spec),
        top_k=_top_k("job.influence", spec, MAX_TOP_K),
        leverage_correction=spec.leverage_correction if spec.HasField("leverage_correction") else None,
        tolerance=_tolerance("job.influence", spec),
        max_iterations=_max_iterations("job.influence", spec),
    )


def _self_influence(spec: jobs_pb2.SelfInfluenceSpec) -> SelfInfluence:
    _require_names("job.self_influence", spec, ("model", "train", "method"))
    return SelfInfluence(
        model=spec.model,
        train=spec.train,
        method=spec.method,
        damping=_damping("job.self_influence", spec),
        top_k=_top_k("job.self_influence", spec, 2**31 - 1),
        leverage_correction=spec.leverage_correction if spec.HasField("leverage_correction") else None,
        tolerance=_tolerance("job.self_influence", spec),
        max_iterations=_max_iterations("job.self_influence", spec),
    )


def _damping(field: str, spec: jobs_pb2.InfluenceSpec | jobs_pb2.SelfInfluenceSpec) -> float | None:
    if not spec.HasField("damping"):
        return None
    if not (math.isfinite(spec.damping) and spec.damping >= 0):
        raise InvalidArgument.at(f"{field}.damping", f"{spec.damping} must be a finite number of at least 0")
    return spec.damping


def _top_k(field: str, spec: jobs_pb2.InfluenceSpec | jobs_pb2.SelfInfluenceSpec, most: int) -> int | None:
    if not spec.HasField("top_k"):
        return None
    if not 1 <= spec.top_k <= most:
        text = f"{spec.top_k} must be from 1 to {most:,}; leave it unset to keep every score"
        raise InvalidArgument.at(f"{field}.top_k", text)
    return spec.top_k


def _tolerance(field: str, spec: jobs_pb2.InfluenceSpec | jobs_pb2.SelfInfluenceSpec) -> float | None:
    if not spec.HasField("tolerance"):
        return None
    if not 0 < spec.tolerance < 1:
        raise InvalidArgument.at(f"{field}.tolerance", f"{spec.tolerance} must lie between 0 and 1")
    return spec.tolerance


def _max_iterations(field: str, spec: jobs_pb2.InfluenceSpec | jobs_pb2.SelfInfluenceSpec) -> int | None:
    if not spec.HasField("max_iterations"):
        return None
    if spec.max_iterations < 1:
        raise InvalidArgument.at(f"{field}.max_iterations", f"{spec.max_iterations} must be at least 1")
    return spec.max_iterations


def _require_names(field: str, message: Message, names: tuple[str, ...]) -> None:
    for name in names:
        _require(f"{field}.{name}", getattr(message, name))


def _require(field: str, value: str) -> None:
    if not value:
        raise InvalidArgument.at(field, "is required")
