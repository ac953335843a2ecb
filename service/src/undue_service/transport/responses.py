"""Values of the domain into messages of the API. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from undue.v1 import datasets_pb2, models_pb2, server_info_pb2, tensors_pb2, uploads_pb2
from undue_service.application.ports import PoolStatus
from undue_service.domain.methods import MethodSpec
from undue_service.domain.reports import (
    ColumnSchema,
    DatasetReport,
    ModelReport,
    Stationarity,
)
from undue_service.domain.resources import Registration, Upload
from undue_service.domain.results import Instances
from undue_service.domain.specs import DType, ModelSpec, ObjectiveSpec

from . import architectures, recipes, sources
from .enums import (
    DATASET_STATES,
    DTYPES,
    FORMATS,
    LOSSES,
    MODEL_STATES,
    PARAMETER_USES,
    SCALES,
)
from .errors import failure_to_status


def timestamp(time: datetime | None) -> Timestamp | None:
    """Return a time; None stays unset."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def upload(value: Upload, received: int) -> uploads_pb2.Upload:
    """Return an upload."""
    return uploads_pb2.Upload(
        name=value.name,
        size_bytes=value.size,
        sha256=value.sha256,
        state=uploads_pb2.Upload.STATE_FINISHED if value.finished else uploads_pb2.Upload.STATE_OPEN,
        received_bytes=received,
        create_time=timestamp(value.create_time),
    )


def model(value: Registration) -> models_pb2.Model:
    """Return a model version."""
    assert isinstance(value.spec, ModelSpec)  # noqa: S101  the registry keeps the collections apart
    return models_pb2.Model(
        name=value.name,
        format=FORMATS.to_proto(value.spec.format),
        objective=objective(value.spec.objective),
        parameters=value.spec.parameters,
        output=value.spec.output or "",
        sample=value.spec.sample or "",
        state=MODEL_STATES.to_proto(value.state),
        validation_job=value.validation.name,
        report=model_report(value.report) if isinstance(value.report, ModelReport) else None,
        error=failure_to_status(value.failure) if value.failure else None,
        create_time=timestamp(value.create_time),
        etag=value.etag,
        training=recipes.write_training(value.spec.training) if value.spec.training else None,
        checkpoints=[recipes.write_checkpoint(one) for one in value.spec.checkpoints],
        architecture=architectures.write(value.spec.architecture) if value.spec.architecture else None,
    )


def dataset(value: Registration) -> datasets_pb2.Dataset:
    """Return a data set version."""
    message = datasets_pb2.Dataset(
        name=value.name,
        state=DATASET_STATES.to_proto(value.state),
        validation_job=value.validation.name,
        report=dataset_report(value.report) if isinstance(value.report, DatasetReport) else None,
        error=failure_to_status(value.failure) if value.failure else None,
        create_time=timestamp(value.create_time),
        etag=value.etag,
    )
    assert not isinstance(value.spec, ModelSpec)  # noqa: S101  the registry keeps the collections apart
    sources.write(value.spec, message)
    return message


def row_block(value: Instances) -> datasets_pb2.RowBlock:
    """Return some instances."""
    message = datasets_pb2.RowBlock(rows=value.rows, ids=_texts(value.ids))
    for name, array in value.inputs.items():
        message.inputs[name].CopyFrom(numbers(array))
    for part, values in (("targets", value.targets), ("weights", value.weights)):
        if values is not None:
            getattr(message, part).CopyFrom(numbers(values))
    for name, texts in value.groups.items():
        message.groups[name].CopyFrom(_texts(texts))
    return message


def objective(value: ObjectiveSpec) -> models_pb2.Objective:
    """Return an objective."""
    return models_pb2.Objective(
        loss=LOSSES.to_proto(value.name), l2=value.l2, l2_exclude=value.l2_exclude, temperature=value.temperature
    )


def model_report(value: ModelReport) -> models_pb2.ModelReport:
    """Return what validation found in a model."""
    parity = None
    if value.parity_max_abs is not None:
        parity = models_pb2.Parity(max_abs_difference=value.parity_max_abs, rows=value.parity_rows)
    parameters = [
        models_pb2.ParameterInfo(
            name=one.name,
            shape=one.shape,
            selected=one.selected,
            l2=one.l2,
            uses=[PARAMETER_USES.to_proto(use) for use in one.uses],
        )
        for one in value.parameters
    ]
    return models_pb2.ModelReport(
        inputs=[_column(one) for one in value.inputs],
        outputs=value.outputs,
        parameters=parameters,
        dtype=DTYPES.to_proto(value.dtype),
        linear_head=value.linear_head,
        output_activation=value.output_activation,
        parity=parity,
        stationarity=stationarity(value.stationarity) if value.stationarity else None,
        warnings=value.warnings,
        output=value.output,
        checkpoints=[
            models_pb2.CheckpointReport(stationarity=stationarity(one.stationarity) if one.stationarity else None)
            for one in value.checkpoints
        ],
    )


def dataset_report(value: DatasetReport) -> datasets_pb2.DatasetReport:
    """Return what validation found in a data set."""
    return datasets_pb2.DatasetReport(
        rows=value.rows,
        inputs=[_column(one) for one in value.inputs],
        target=_column(value.target) if value.target else None,
        has_ids=value.has_ids,
        has_weights=value.has_weights,
        digest=value.digest,
        groups=[datasets_pb2.Group(name=one.name, values=one.values) for one in value.groups],
        classes=value.classes,
        files=value.files,
    )


def server_info(
    version: str,
    methods: Iterable[MethodSpec],
    limits: server_info_pb2.Limits,
    pool: PoolStatus,
    allowed: Iterable[str] = (),
) -> server_info_pb2.ServerInfo:
    """Return what this installation is."""
    return server_info_pb2.ServerInfo(
        version=version,
        methods=[
            server_info_pb2.MethodInfo(
                name=one.name,
                scale=SCALES.to_proto(one.scale),
                estimand=one.estimand,
                uses_damping=one.uses_damping,
                is_iterative=one.is_iterative,
                has_leverage_correction=one.has_leverage_correction,
                rank=one.rank,
                has_normalization=one.has_normalization,
                needs_checkpoints=one.needs_checkpoints,
                draws_at_random=one.draws_at_random,
                has_self_influence=one.has_self_influence,
                parameter_limit=one.parameter_limit or 0,
            )
            for one in methods
        ],
        limits=limits,
        devices=[server_info_pb2.DeviceInfo(name=name) for name in pool.devices],
        runners=[
            server_info_pb2.RunnerInfo(
                pid=one.pid,
                device=one.device,
                lane=one.lane,
                state=getattr(server_info_pb2.RunnerInfo, f"STATE_{one.state.upper()}"),
            )
            for one in pool.runners
        ],
        libraries=pool.libraries,
        architectures=architectures.listing(allowed),
    )


def _column(value: ColumnSchema) -> tensors_pb2.TensorSpec:
    return tensors_pb2.TensorSpec(name=value.name, dtype=DTYPES.to_proto(value.dtype), row_shape=value.shape)


def numbers(array: npt.NDArray[Any]) -> tensors_pb2.Tensor:
    """Return an array of numbers."""
    dtype = DTYPES.to_proto(cast(DType, array.dtype.name))
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return tensors_pb2.Tensor(dtype=dtype, shape=array.shape, data=data)


def _texts(texts: tuple[str, ...]) -> tensors_pb2.Tensor:
    data = "".join(f"{text}\0" for text in texts).encode()
    return tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_UTF8, shape=[len(texts)], data=data)


def stationarity(value: Stationarity) -> models_pb2.Stationarity:
    """Return how near a minimum the weights are."""
    return models_pb2.Stationarity(
        gradient_norm=value.gradient_norm, relative=value.relative, mean_loss=value.mean_loss
    )
