"""What is known to be wrong with a job before a runner sees it: from the registry of methods and the reports."""

from dataclasses import replace

from undue_service.domain.comparison import Compare
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.group_influence import GroupInfluence
from undue_service.domain.influence import Influence
from undue_service.domain.leverage import Leverage
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT, default_method, method_spec, self_influence_spec
from undue_service.domain.mislabels import Mislabels
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.reports import ModelReport
from undue_service.domain.resources import Registration
from undue_service.domain.retraining import Retrain
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import MeasuringJob, RequestedJob, ScoringJob

from .checks import (
    check_dense,
    check_leverage,
    check_measurement,
    check_recipe,
    check_rows,
    check_scoring,
    check_settings,
    trained_on,
)
from .mislabels_admission import check_mislabels_asked, check_mislabels_job
from .perturb_admission import check_perturb_job
from .validated import dataset_report, model_report


def check_asked(spec: RequestedJob) -> None:
    """Hold a job against what can be asked, whatever it is about.

    Raises:
        InvalidArgument: as `check_method`; INVALID_FIELD for settings of a mislabels job that do not go together.
    """
    if isinstance(spec, Mislabels):
        check_mislabels_asked(spec)
    else:
        check_method(spec)


def check_method(spec: RequestedJob) -> None:
    """Hold a job against the registry of methods.

    Raises:
        InvalidArgument: METHOD_UNKNOWN; INVALID_FIELD for a setting that the method has not, or self-influence by one
            that ranks no row; LEVERAGE_UNAVAILABLE.
    """
    if not isinstance(spec, ScoringJob):
        return
    find = self_influence_spec if isinstance(spec, SelfInfluence) else method_spec
    for name in filter(None, (spec.method, spec.other_method if isinstance(spec, Compare) else "")):
        check_settings(f"job.{spec.kind}", spec, find(name))


def settled_method(spec: RequestedJob, model: Registration) -> RequestedJob:
    """Return the job with the method that it gets where it names none.

    Raises:
        InvalidArgument: PARAMETERS_NOT_FOUND; as `check_method`.
    """
    if not isinstance(spec, ScoringJob | Mislabels) or spec.method:
        return spec
    if isinstance(spec, Mislabels) and spec.scoring() is None:
        return spec
    report = selected(spec, model)
    settled = replace(spec, method=default_method(report.linear_head, report.dim))
    check_method(settled)
    return settled


def selected(spec: RequestedJob, model: Registration) -> ModelReport:
    """Return what is known of a model with the parameters selected that a job's scores run over.

    Raises:
        InvalidArgument: PARAMETERS_NOT_FOUND.
    """
    return model_report(model).selecting(spec.parameters if isinstance(spec, ScoringJob) else ())


def check_job(spec: RequestedJob, model: Registration, train: Registration, test: Registration | None) -> None:
    """Hold a job against what is known of its model and data.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; TARGETS_MISSING; DATASET_DEGENERATE; LEVERAGE_UNAVAILABLE; OBJECTIVE_MISMATCH
            for labels or flips of a regression; INPUT_NOT_DIFFERENTIABLE; INVALID_FIELD for a measurement that a
            regression has not, for settings that retraining has not, or for more candidates than rows.
        FailedPrecondition: TOO_MANY_PARAMETERS; RECIPE_MISSING; CHECKPOINTS_MISSING; LEVERAGE_UNAVAILABLE.
    """
    field = f"job.{spec.kind}"
    rows = trained_on(f"{field}.train", train).rows
    if test is not None and isinstance(spec, MeasuringJob):
        check_rows(f"{field}.rows", spec.rows, dataset_report(test).rows)
        check_measurement(field, spec.measurement, model)
    found = selected(spec, model)
    if isinstance(spec, ScoringJob):
        check_scoring(field, spec, method_spec(spec.method), model, found)
        check_leverage(field, spec, found)
    match spec:
        case Influence(fidelity=FidelitySettings() as settings):
            if spec.aggregate is not None:
                text = "scores of rows that are explained together are not held against retraining: leave aggregate out"
                raise InvalidArgument.at(f"{field}.fidelity", text)
            _check_fidelity(f"{field}.fidelity", f"{field}.train", settings, model, rows)
        case Fidelity(settings=settings):
            _check_fidelity(f"{field}.settings", f"{field}.train", settings, model, rows)
        case GroupInfluence():
            _check_groups(field, spec, model, train)
        case Leverage():
            _check_closed_forms(model, found)
        case Retrain():
            _check_retrain(field, spec, model, found, rows)
        case Mislabels():
            check_mislabels_job(spec, model, train, test)
        case Perturb():
            assert test is not None  # noqa: S101  it names one
            check_perturb_job(spec, model, train, test)


def settled_other(spec: Compare, other: Registration) -> Compare:
    """Return a comparison with the other model's version and method, held against what is known of it.

    Raises:
        InvalidArgument: as `check_method`; LEVERAGE_UNAVAILABLE; INVALID_FIELD for a measurement that a regression has
            not.
        FailedPrecondition: TOO_MANY_PARAMETERS; CHECKPOINTS_MISSING.
    """
    field, report = f"job.{spec.kind}", model_report(other)
    check_measurement(field, spec.measurement, other)
    name = spec.other_method or default_method(report.linear_head, report.dim)
    settled = replace(spec, other=other.name, other_method=name)
    check_method(settled)
    check_scoring(field, settled, method_spec(name), other, report)
    if spec.leverage_correction and not report.linear_head:
        text = f"needs outputs that are linear in every selected parameter, which those of {other.name} are not"
        raise InvalidArgument.at(f"{field}.leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)
    return settled


def _check_closed_forms(model: Registration, found: ModelReport) -> None:
    """Hold a model against the closed forms of leverage."""
    if not found.linear_head:
        text = (
            f"{model.name} is not linear in every selected parameter, and the closed forms are those of a "
            "linear model: register it with parameters= of its last layer"
        )
        raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text)
    check_dense("leverage", DENSE_PARAMETER_LIMIT, found)


def _check_retrain(field: str, spec: Retrain, model: Registration, found: ModelReport, train_rows: int) -> None:
    """Hold what is to be fitted again against the recipe and the rows that there are."""
    check_recipe(field, model, spec.start)
    for name in ("tolerance", "max_iterations"):
        if getattr(spec, name) is not None and not found.linear_head:
            text = f"{model.name} is trained again for the epochs of its recipe: leave {name} out"
            raise InvalidArgument.at(f"{field}.{name}", text)
    for place, without in enumerate(spec.without):
        check_rows(f"{field}.without[{place}].rows", without, train_rows)
    for place, edit in enumerate(spec.counterfactuals):
        for part, named in edit.rows().items():
            check_rows(f"{field}.counterfactuals[{place}].{part}", named, train_rows)


def _check_fidelity(
    field: str, train_field: str, settings: FidelitySettings, model: Registration, train_rows: int
) -> None:
    """Hold how scores are to be held against retraining against the model and the rows that there are."""
    if train_rows < 2:
        raise InvalidArgument.at(train_field, "has one row: without it nothing would be left to train on")
    check_recipe(field, model, settings.start)


def _check_groups(field: str, spec: GroupInfluence, model: Registration, train: Registration) -> None:
    """Hold the columns of groups against those that there are, and what is to be retrained against its recipe."""
    there = [group.name for group in dataset_report(train).groups]
    wanted = [(f"{field}.by[{k}]", name) for k, name in enumerate(spec.by)]
    for where, name in wanted:
        if name not in there:
            listed = f"it has {', '.join(map(repr, there))}" if there else "it was registered without any (groups=)"
            text = f"{train.name} has no column of groups {name!r}; {listed}"
            raise InvalidArgument.at(where, text, Reason.COLUMN_NOT_FOUND)
    for k, one in enumerate(spec.reweight):
        if one.column not in spec.by:
            text = f"{one.column!r} is none of the columns that are asked about: name it in by, too"
            raise InvalidArgument.at(f"{field}.reweight[{k}].column", text, Reason.COLUMN_NOT_FOUND)
    if spec.retrains:
        check_recipe(f"{field}.reweight", model, spec.start)
    elif spec.start is not None or spec.seeds != 1:
        text = "nothing is retrained: leave start and seeds out, or reweight some group"
        raise InvalidArgument.at(f"{field}.reweight_top", text)
