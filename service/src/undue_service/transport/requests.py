"""Requests of the API into values of the domain. Pure but for `Digest`, which turns bytes into artifacts.

A request has been held against the rules of proto/ before it comes here (`validation`).
"""

from typing import Any, cast

from undue.v1 import datasets_pb2, jobs_pb2, models_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.influence import Influence
from undue_service.domain.leverage import Leverage
from undue_service.domain.retraining import Retrain
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import DataSource, ModelSpec, ObjectiveSpec, RequestedJob, check_temperature

from . import architectures, comparing, edits, fidelity, groups, mislabels, perturbing, recipes, sources
from .enums import FORMATS, LOSSES, MEASUREMENTS, NORMALIZATIONS
from .sources import Digest

MAX_WITHOUT_ROWS = 1_000_000
"""Of all counterfactuals of a job together."""


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
    timeout = request.job.timeout_seconds
    match request.job.WhichOneof("spec"):
        case "influence":
            return _influence(request.job.influence), timeout
        case "self_influence":
            return _self_influence(request.job.self_influence), timeout
        case "retrain":
            return _retrain(request.job.retrain), timeout
        case "fidelity":
            return _fidelity(request.job.fidelity), timeout
        case "leverage":
            return _leverage(request.job.leverage), timeout
        case "perturb":
            return perturbing.read_spec(request.job.perturb), timeout
        case "mislabels":
            return mislabels.read_spec(request.job.mislabels), timeout
        case "group_influence":
            return groups.read_spec(request.job.group_influence), timeout
        case "compare":
            return comparing.read_spec(request.job.compare), timeout
        case "index_build" | "index_extend" | "index_compact":
            text = "a job of an index is started by CreateIndex, ExtendIndex or CompactIndex"
            raise InvalidArgument.at("job.spec", text)
    raise InvalidArgument.at("job.spec", "a validation is started by CreateModel or CreateDataset")


def _objective(objective: models_pb2.Objective) -> ObjectiveSpec:
    loss = LOSSES.to_domain("model.objective.loss", objective.loss)
    spec = ObjectiveSpec(cast(Any, loss), objective.l2, tuple(objective.l2_exclude), objective.temperature)
    check_temperature(spec, "model.objective")
    return spec


def _influence(spec: jobs_pb2.InfluenceSpec) -> Influence:
    return Influence(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        rows=tuple(spec.rows),
        method=spec.method,
        measurement=_measurement(spec.measurement),
        top_k=spec.top_k if spec.HasField("top_k") else None,
        aggregate="mean" if spec.HasField("aggregate") else None,
        fidelity=(
            fidelity.read_settings("job.influence.fidelity", spec.fidelity) if spec.HasField("fidelity") else None
        ),
        **_scoring(spec),
    )


def _self_influence(spec: jobs_pb2.SelfInfluenceSpec) -> SelfInfluence:
    return SelfInfluence(
        model=spec.model,
        train=spec.train,
        method=spec.method,
        top_k=spec.top_k if spec.HasField("top_k") else None,
        **_scoring(spec),
    )


def _retrain(spec: jobs_pb2.RetrainSpec) -> Retrain:
    without = tuple(tuple(one.rows) for one in spec.without)
    if not without and not spec.counterfactuals:
        text = "is empty, and so is counterfactuals: name training rows that are left out, or edits of some"
        raise InvalidArgument.at("job.retrain.without", text)
    if sum(map(len, without)) > MAX_WITHOUT_ROWS:
        raise InvalidArgument.at("job.retrain.without", f"names more than {MAX_WITHOUT_ROWS:,} rows in all")
    return Retrain(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        without=without,
        counterfactuals=edits.read(spec),
        rows=tuple(spec.rows),
        measurement=_measurement(spec.measurement),
        start=fidelity.read_start("job.retrain.start", spec),
        seeds=spec.seeds if spec.HasField("seeds") else 1,
        **_optional(spec, "tolerance", "max_iterations"),
    )


def _fidelity(spec: jobs_pb2.FidelitySpec) -> Fidelity:
    return Fidelity(
        model=spec.model,
        train=spec.train,
        test=spec.test,
        settings=fidelity.read_settings("job.fidelity.settings", spec.settings),
        rows=tuple(spec.rows),
        method=spec.method,
        measurement=_measurement(spec.measurement),
        **_scoring(spec),
    )


def _leverage(spec: jobs_pb2.LeverageSpec) -> Leverage:
    return Leverage(model=spec.model, train=spec.train, dfbeta=spec.dfbeta, **_optional(spec, "damping"))


def _scoring(spec: jobs_pb2.InfluenceSpec | jobs_pb2.SelfInfluenceSpec | jobs_pb2.FidelitySpec) -> dict[str, Any]:
    """Return the settings of a method."""
    normalization = None
    if spec.HasField("normalization"):
        normalization = NORMALIZATIONS.to_domain("normalization", spec.normalization)
    return {
        "parameters": tuple(spec.parameters),
        "normalization": normalization,
        "ensemble": spec.ensemble,
        "seed": spec.seed,
        **_optional(spec, "damping", "leverage_correction", "tolerance", "max_iterations", "rank"),
    }


def _measurement(number: int) -> Any:
    return MEASUREMENTS.to_domain("measurement", number or jobs_pb2.MEASUREMENT_LOSS)


def _optional(
    spec: jobs_pb2.InfluenceSpec
    | jobs_pb2.SelfInfluenceSpec
    | jobs_pb2.RetrainSpec
    | jobs_pb2.FidelitySpec
    | jobs_pb2.LeverageSpec,
    *names: str,
) -> dict[str, Any]:
    """Return the fields that may be unset, unset ones as None."""
    return {name: getattr(spec, name) if spec.HasField(cast(Any, name)) else None for name in names}
