"""Requests of the API into values of the domain. Pure but for `Digest`, which turns bytes into artifacts.

A request has been held against the rules of proto/ before it comes here (`validation`).
"""

import math
from collections.abc import Callable
from typing import Any, cast

from undue.v1 import datasets_pb2, jobs_pb2, models_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import (
    ArraysSource,
    DataSource,
    FileSource,
    Influence,
    ModelSpec,
    ObjectiveSpec,
    RequestedJob,
    Retrain,
    SchemaSpec,
    SelfInfluence,
    TensorRef,
    UploadedFile,
)

from .enums import DTYPES, FILE_FORMATS, FORMATS, LOSSES, MEASUREMENTS

Digest = Callable[[str, str | bytes], str]
"""(field, upload name or bytes) → sha256 of the artifact that holds them."""

MAX_COLUMNS = 100_000
"""Of all inputs of a data set together."""
MAX_WITHOUT_ROWS = 1_000_000
"""Of all counterfactuals of a job together."""

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
    """Return the model that a request registers."""
    model = request.model
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
        InvalidArgument: bytes that do not fit their declared shape, or too many columns.
    """
    if request.dataset.HasField("arrays"):
        return _arrays(request.dataset.arrays, digest)
    return _file(request.dataset.file, digest)


def job_spec(request: jobs_pb2.CreateJobRequest) -> tuple[RequestedJob, float]:
    """Return the job that a request queues, and its time limit.

    Raises:
        InvalidArgument: it is a job that only the service queues, or names too many rows.
    """
    timeout = request.job.timeout_seconds
    match request.job.WhichOneof("spec"):
        case "influence":
            return _influence(request.job.influence), timeout
        case "self_influence":
            return _self_influence(request.job.self_influence), timeout
        case "retrain":
            return _retrain(request.job.retrain), timeout
    raise InvalidArgument.at("job.spec", "a validation is started by CreateModel or CreateDataset")


def _objective(objective: models_pb2.Objective) -> ObjectiveSpec:
    loss = LOSSES.to_domain("model.objective.loss", objective.loss)
    return ObjectiveSpec(cast(Any, loss), objective.l2, tuple(objective.l2_exclude))


def _arrays(arrays: datasets_pb2.ArraysSource, digest: Digest) -> ArraysSource:
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
    if math.prod(shape) >= 1 << 48:
        raise InvalidArgument.at(f"{field}.shape", f"{shape} is larger than anything that can be sent")
    if tensor.HasField("upload"):
        return TensorRef(dtype, shape, digest(f"{field}.upload", tensor.upload))
    if item is not None and len(tensor.data) != item * math.prod(shape):
        text = f"{len(tensor.data):,} bytes; {dtype} of shape {shape} has {item * math.prod(shape):,}"
        raise InvalidArgument.at(f"{field}.data", text)
    return TensorRef(dtype, shape, digest(f"{field}.data", tensor.data))


def _file(file: datasets_pb2.FileSource, digest: Digest) -> FileSource:
    schema = file.schema
    if sum(len(columns.columns) for columns in schema.inputs.values()) > MAX_COLUMNS:
        raise InvalidArgument.at("dataset.file.schema.inputs", f"names more than {MAX_COLUMNS:,} columns")
    inputs = {name: tuple(columns.columns) for name, columns in sorted(schema.inputs.items())}
    spec = SchemaSpec(inputs, schema.target or None, schema.id or None, schema.weight or None)
    format_ = FILE_FORMATS.to_domain("dataset.file.format", file.format)
    files = tuple(
        UploadedFile(one.name, digest(f"dataset.file.files[{place}].upload", one.upload))
        for place, one in enumerate(file.files)
    )
    return FileSource(cast(Any, format_), files, spec)


def _influence(spec: jobs_pb2.InfluenceSpec) -> Influence:
    return Influence(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        rows=tuple(spec.rows),
        method=spec.method,
        measurement=_measurement(spec.measurement),
        aggregate="mean" if spec.HasField("aggregate") else None,
        **_optional(spec, "damping", "top_k", "leverage_correction", "tolerance", "max_iterations"),
    )


def _self_influence(spec: jobs_pb2.SelfInfluenceSpec) -> SelfInfluence:
    return SelfInfluence(
        model=spec.model,
        train=spec.train,
        method=spec.method,
        **_optional(spec, "damping", "top_k", "leverage_correction", "tolerance", "max_iterations"),
    )


def _retrain(spec: jobs_pb2.RetrainSpec) -> Retrain:
    without = tuple(tuple(one.rows) for one in spec.without)
    if sum(map(len, without)) > MAX_WITHOUT_ROWS:
        raise InvalidArgument.at("job.retrain.without", f"names more than {MAX_WITHOUT_ROWS:,} rows in all")
    return Retrain(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        without=without,
        rows=tuple(spec.rows),
        measurement=_measurement(spec.measurement),
        **_optional(spec, "tolerance", "max_iterations"),
    )


def _measurement(number: int) -> Any:
    return MEASUREMENTS.to_domain("measurement", number or jobs_pb2.MEASUREMENT_LOSS)


def _optional(
    spec: jobs_pb2.InfluenceSpec | jobs_pb2.SelfInfluenceSpec | jobs_pb2.RetrainSpec, *names: str
) -> dict[str, Any]:
    """Return the fields that may be unset, unset ones as None."""
    return {name: getattr(spec, name) if spec.HasField(cast(Any, name)) else None for name in names}
