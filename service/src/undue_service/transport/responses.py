"""Values of the domain into messages of the API. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from undue.v1 import datasets_pb2, jobs_pb2, models_pb2, server_info_pb2, tensors_pb2, uploads_pb2
from undue_service.application.ports import PoolStatus
from undue_service.domain.costs import Estimate
from undue_service.domain.jobs import Job
from undue_service.domain.methods import MethodSpec
from undue_service.domain.resources import Registration, Upload
from undue_service.domain.results import Counterfactual, Explanation, Instances, ScoredExample, Value
from undue_service.domain.specs import (
    ColumnSchema,
    DatasetReport,
    DatasetValidation,
    Diagnostics,
    DType,
    Influence,
    InfluenceReport,
    JobSpec,
    ModelReport,
    ModelSpec,
    ModelValidation,
    ObjectiveSpec,
    RequestedJob,
    Retrain,
    SelfInfluence,
    Stationarity,
)

from . import sources
from .enums import (
    DAMPING_SOURCES,
    DATASET_STATES,
    DTYPES,
    FORMATS,
    JOB_STATES,
    LOSSES,
    MEASUREMENTS,
    MODEL_STATES,
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
        message.inputs[name].CopyFrom(_numbers(array))
    for part, numbers in (("targets", value.targets), ("weights", value.weights)):
        if numbers is not None:
            getattr(message, part).CopyFrom(_numbers(numbers))
    for name, texts in value.groups.items():
        message.groups[name].CopyFrom(_texts(texts))
    return message


def objective(value: ObjectiveSpec) -> models_pb2.Objective:
    """Return an objective."""
    return models_pb2.Objective(loss=LOSSES.to_proto(value.name), l2=value.l2, l2_exclude=value.l2_exclude)


def model_report(value: ModelReport) -> models_pb2.ModelReport:
    """Return what validation found in a model."""
    parity = None
    if value.parity_max_abs is not None:
        parity = models_pb2.Parity(max_abs_difference=value.parity_max_abs, rows=value.parity_rows)
    parameters = [
        models_pb2.ParameterInfo(name=one.name, shape=one.shape, selected=one.selected, l2=one.l2)
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
        stationarity=_stationarity(value.stationarity) if value.stationarity else None,
        warnings=value.warnings,
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


def job(value: Job) -> jobs_pb2.Job:
    """Return a job."""
    message = jobs_pb2.Job(
        name=value.name,
        state=JOB_STATES.to_proto(value.state),
        progress=jobs_pb2.Progress(stage=value.progress.stage, done=value.progress.done, total=value.progress.total),
        error=failure_to_status(value.failure) if value.failure else None,
        attempt=value.attempt,
        create_time=timestamp(value.create_time),
        start_time=timestamp(value.start_time),
        end_time=timestamp(value.end_time),
        timeout_seconds=value.timeout_seconds,
        etag=value.etag,
    )
    if isinstance(value.report, InfluenceReport):
        message.diagnostics.CopyFrom(diagnostics(value.report.diagnostics))
    _put_spec(message, value.spec)
    return message


def estimated_job(spec: RequestedJob, timeout_seconds: float, value: Estimate) -> jobs_pb2.Job:
    """Return a job that was not queued, with what it would take."""
    estimate = jobs_pb2.Estimate(rows=value.rows, peak_bytes=value.peak_bytes, seconds=value.seconds)
    message = jobs_pb2.Job(timeout_seconds=timeout_seconds, estimate=estimate)
    _put_spec(message, spec)
    return message


def _put_spec(message: jobs_pb2.Job, spec: JobSpec) -> None:
    match spec:
        case Influence():
            measurement = MEASUREMENTS.to_proto(spec.measurement)
            aggregate = jobs_pb2.AGGREGATE_MEAN if spec.aggregate else None
            influence = jobs_pb2.InfluenceSpec(
                rows=spec.rows, test=spec.test, measurement=measurement, aggregate=aggregate, **_common(spec)
            )
            message.influence.CopyFrom(influence)
        case SelfInfluence():
            message.self_influence.CopyFrom(jobs_pb2.SelfInfluenceSpec(**_common(spec)))
        case Retrain():
            retrain = jobs_pb2.RetrainSpec(
                model=spec.model,
                train=spec.train,
                test=spec.test,
                rows=spec.rows,
                measurement=MEASUREMENTS.to_proto(spec.measurement),
                without=[jobs_pb2.RowSet(rows=rows) for rows in spec.without],
                tolerance=spec.tolerance,
                max_iterations=spec.max_iterations,
            )
            message.retrain.CopyFrom(retrain)
        case ModelValidation(model=name):
            message.model_validation.model = name
        case DatasetValidation(dataset=name):
            message.dataset_validation.dataset = name


def diagnostics(value: Diagnostics) -> jobs_pb2.Diagnostics:
    """Return what scores mean."""
    return jobs_pb2.Diagnostics(
        estimand=value.estimand,
        scale=SCALES.to_proto(value.scale),
        method=value.method,
        damping=value.damping,
        damping_source=DAMPING_SOURCES.to_proto(value.damping_source),
        leverage_correction=value.leverage_correction,
        solver=value.solver,
        solver_status=value.solver_status,
        residual=value.residual,
        stationarity=_stationarity(value.stationarity),
        recipe=value.recipe,
        seed=value.seed,
        dtype=DTYPES.to_proto(value.dtype),
        device=value.device,
        digests=value.digests,
        seconds=value.seconds,
        warnings=value.warnings,
        matvecs=value.matvecs,
    )


def explanation(value: Explanation) -> jobs_pb2.Explanation:
    """Return why the model said what it said of one row."""
    return jobs_pb2.Explanation(
        row=value.row,
        id=value.id,
        prediction=None if value.prediction is None else _value(value.prediction),
        target=None if value.target is None else _value(value.target),
        loss=value.loss,
        helpful=[scored_example(one) for one in value.helpful],
        harmful=[scored_example(one) for one in value.harmful],
        rows=value.rows,
    )


def scored_example(value: ScoredExample) -> jobs_pb2.ScoredExample:
    """Return a training row with its score."""
    return jobs_pb2.ScoredExample(
        row=value.row,
        id=value.id,
        score=value.score,
        target=_value(value.target),
        prediction=_value(value.prediction),
        loss=value.loss,
    )


def counterfactual(value: Counterfactual) -> jobs_pb2.Counterfactual:
    """Return what was measured without some training rows."""
    return jobs_pb2.Counterfactual(
        index=value.index,
        without=value.without,
        changes=value.changes,
        gradient_norm=value.gradient_norm,
        iterations=value.iterations,
    )


def score_block(first: int, scores: npt.NDArray[np.float32]) -> jobs_pb2.ScoreBlock:
    """Return some rows of a score matrix."""
    data = np.ascontiguousarray(scores, dtype="<f4").tobytes()
    return jobs_pb2.ScoreBlock(
        first=first, scores=tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=scores.shape, data=data)
    )


def server_info(
    version: str, methods: Iterable[MethodSpec], limits: server_info_pb2.Limits, pool: PoolStatus
) -> server_info_pb2.ServerInfo:
    """Return what this installation is."""
    return server_info_pb2.ServerInfo(
        version=version,
        methods=[
            server_info_pb2.MethodInfo(
                name=one.name, scale=SCALES.to_proto(one.scale), estimand=one.estimand, uses_damping=one.uses_damping
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
    )


def _common(spec: Influence | SelfInfluence) -> dict[str, Any]:
    names = ("model", "train", "method", "damping", "top_k", "leverage_correction", "tolerance", "max_iterations")
    return {name: getattr(spec, name) for name in names}


def _column(value: ColumnSchema) -> tensors_pb2.TensorSpec:
    return tensors_pb2.TensorSpec(name=value.name, dtype=DTYPES.to_proto(value.dtype), row_shape=value.shape)


def _numbers(array: npt.NDArray[Any]) -> tensors_pb2.Tensor:
    dtype = DTYPES.to_proto(cast(DType, array.dtype.name))
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return tensors_pb2.Tensor(dtype=dtype, shape=array.shape, data=data)


def _texts(texts: tuple[str, ...]) -> tensors_pb2.Tensor:
    data = "".join(f"{text}\0" for text in texts).encode()
    return tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_UTF8, shape=[len(texts)], data=data)


def _stationarity(value: Stationarity) -> models_pb2.Stationarity:
    return models_pb2.Stationarity(
        gradient_norm=value.gradient_norm, relative=value.relative, mean_loss=value.mean_loss
    )


def _value(value: Value) -> tensors_pb2.Value:
    if isinstance(value, tuple):
        return tensors_pb2.Value(numbers=tensors_pb2.NumberList(values=value))
    return tensors_pb2.Value(label=value) if isinstance(value, int) else tensors_pb2.Value(number=value)
