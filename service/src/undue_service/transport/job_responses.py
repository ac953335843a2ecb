"""Jobs and what they found into messages of the API. Pure."""

import numpy as np
import numpy.typing as npt

from undue.v1 import jobs_pb2, tensors_pb2
from undue_service.domain.costs import Estimate
from undue_service.domain.index_jobs import IndexBuild, IndexCompact, IndexExtend, IndexJob
from undue_service.domain.jobs import Job, Progress
from undue_service.domain.reports import (
    IndexReport,
    InfluenceReport,
    PerturbationReport,
)
from undue_service.domain.results import Counterfactual, Explanation, LeverageBlock
from undue_service.domain.specs import JobSpec, RequestedJob
from undue_service.domain.validations import DatasetValidation, ModelValidation

from . import perturbing
from .enums import JOB_STATES
from .errors import failure_to_status
from .kinds import KINDS
from .responses import timestamp
from .values import diagnostics, scored_example, value_message


def job(value: Job, *, with_spec: bool = True) -> jobs_pb2.Job:
    """Return a job; what it was asked, which never changes, may be left out."""
    message = jobs_pb2.Job(
        name=value.name,
        state=JOB_STATES.to_proto(value.state),
        progress=_progress(value.progress),
        error=failure_to_status(value.failure) if value.failure else None,
        attempt=value.attempt,
        create_time=timestamp(value.create_time),
        start_time=timestamp(value.start_time),
        end_time=timestamp(value.end_time),
        timeout_seconds=value.timeout_seconds,
        etag=value.etag,
    )
    if isinstance(value.report, InfluenceReport | IndexReport | PerturbationReport):
        message.diagnostics.CopyFrom(diagnostics(value.report.diagnostics))
    if isinstance(value.report, PerturbationReport):
        message.perturbation.CopyFrom(perturbing.write_summary(value.report.summary))
    if with_spec:
        _put_spec(message, value.spec)
    return message


def estimated_job(spec: RequestedJob, timeout_seconds: float, value: Estimate) -> jobs_pb2.Job:
    """Return a job that was not queued, with what it would take."""
    message = jobs_pb2.Job(timeout_seconds=timeout_seconds, estimate=estimate(value))
    _put_spec(message, spec)
    return message


def estimate(value: Estimate) -> jobs_pb2.Estimate:
    """Return what a job would take."""
    return jobs_pb2.Estimate(rows=value.rows, peak_bytes=value.peak_bytes, seconds=value.seconds)


def _put_spec(message: jobs_pb2.Job, spec: JobSpec) -> None:
    if isinstance(spec, RequestedJob):
        getattr(message, spec.kind).CopyFrom(KINDS[spec.kind].write(spec))
    else:
        _put_own_spec(message, spec)


def _put_own_spec(message: jobs_pb2.Job, spec: ModelValidation | DatasetValidation | IndexJob) -> None:
    """Put what only the service queues."""
    match spec:
        case ModelValidation(model=name):
            message.model_validation.model = name
        case DatasetValidation(dataset=name):
            message.dataset_validation.dataset = name
        case IndexBuild(index=name):
            message.index_build.index = name
        case IndexExtend(index=name, dataset=added):
            message.index_extend.CopyFrom(jobs_pb2.IndexExtendSpec(index=name, dataset=added))
        case IndexCompact(index=name):
            message.index_compact.index = name


def explanation(value: Explanation) -> jobs_pb2.Explanation:
    """Return why the model said what it said of one row."""
    return jobs_pb2.Explanation(
        row=value.row,
        id=value.id,
        prediction=None if value.prediction is None else value_message(value.prediction),
        target=None if value.target is None else value_message(value.target),
        loss=value.loss,
        helpful=[scored_example(one) for one in value.helpful],
        harmful=[scored_example(one) for one in value.harmful],
        rows=value.rows,
    )


def counterfactual(value: Counterfactual) -> jobs_pb2.Counterfactual:
    """Return what was measured without some training rows."""
    return jobs_pb2.Counterfactual(
        index=value.index,
        without=value.without,
        changes=value.changes,
        gradient_norm=value.gradient_norm,
        iterations=value.iterations,
        replaced=value.replaced,
        relabelled=value.relabelled,
        reweighted=value.reweighted,
    )


def leverage_block(value: LeverageBlock) -> jobs_pb2.LeverageBlock:
    """Return what some training rows do to a linear head."""
    message = jobs_pb2.LeverageBlock(
        first=value.first,
        ids=value.ids,
        leverage=value.leverage,
        cooks_distance=value.cooks_distance,
        coefficients=value.coefficients,
        effective_parameters=value.effective_parameters,
        variance=value.variance,
    )
    if value.dfbeta is not None:
        data = np.ascontiguousarray(value.dfbeta, dtype="<f8").tobytes()
        dtype, shape = tensors_pb2.DATA_TYPE_FLOAT64, value.dfbeta.shape
        message.dfbeta.CopyFrom(tensors_pb2.Tensor(dtype=dtype, shape=shape, data=data))
    return message


def score_block(first: int, scores: npt.NDArray[np.float32]) -> jobs_pb2.ScoreBlock:
    """Return some rows of a score matrix."""
    data = np.ascontiguousarray(scores, dtype="<f4").tobytes()
    return jobs_pb2.ScoreBlock(
        first=first, scores=tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=scores.shape, data=data)
    )


def _progress(value: Progress) -> jobs_pb2.Progress:
    return jobs_pb2.Progress(
        stage=value.stage, done=value.done, total=value.total, rate=value.rate, seconds_left=value.seconds_left
    )
