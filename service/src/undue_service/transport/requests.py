"""Requests of the API into values of the domain. Pure but for `Digest`, which turns bytes into artifacts.

A request has been held against the rules of proto/ before it comes here (`validation`).
"""

from typing import Any, cast

from undue.v1 import datasets_pb2, jobs_pb2, models_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import DataSource, ModelSpec, ObjectiveSpec, RequestedJob, check_temperature

from . import architectures, recipes, sources
from .enums import FORMATS, LOSSES
from .kinds import KINDS
from .sources import Digest

_OF_AN_INDEX = ("index_build", "index_extend", "index_compact")


def model_spec(request: models_pb2.CreateModelRequest, digest: Digest) -> ModelSpec:
    """Return the model that a request registers."""
    model = request.model
    file_format = FORMATS.to_domain("model.format", model.format)
    return ModelSpec(
        format=file_format,
        digest=digest("model.upload", model.upload),
        objective=_objective(model.objective),
        parameters=tuple(model.parameters),
        output=model.output or None,
        sample=model.sample or None,
        training=(
            recipes.read_training("model.training", model.training, digest) if model.HasField("training") else None
        ),
        checkpoints=tuple(
            recipes.read_checkpoint(f"model.checkpoints[{i}]", one, digest) for i, one in enumerate(model.checkpoints)
        ),
        architecture=architectures.read("model.architecture", model, file_format),
    )


def data_source(request: datasets_pb2.CreateDatasetRequest, digest: Digest) -> DataSource:
    """Return the data set that a request registers.

    Raises:
        InvalidArgument: as `sources.read`.
    """
    return sources.read(request.dataset, digest)


def job_spec(request: jobs_pb2.CreateJobRequest) -> tuple[RequestedJob, float]:
    """Return the job that a request queues, and its time limit.

    Raises:
        InvalidArgument: it is a job that only the service queues, or names too many rows.
    """
    kind = request.job.WhichOneof("spec") or ""
    if kind in KINDS:
        return KINDS[kind].read(getattr(request.job, kind)), request.job.timeout_seconds
    if kind in _OF_AN_INDEX:
        text = "a job of an index is started by CreateIndex, ExtendIndex or CompactIndex"
        raise InvalidArgument.at("job.spec", text)
    raise InvalidArgument.at("job.spec", "a validation is started by CreateModel or CreateDataset")


def _objective(objective: models_pb2.Objective) -> ObjectiveSpec:
    loss = LOSSES.to_domain("model.objective.loss", objective.loss)
    spec = ObjectiveSpec(cast(Any, loss), objective.l2, tuple(objective.l2_exclude), objective.temperature)
    check_temperature(spec, "model.objective")
    return spec
