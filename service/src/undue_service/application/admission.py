"""What is known to be wrong with a job before a runner sees it: from the registry of methods and the reports."""

from collections.abc import Iterable
from dataclasses import replace

from undue_service.domain.comparison import Compare
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.group_influence import GroupInfluence
from undue_service.domain.methods import (
    DENSE_PARAMETER_LIMIT,
    MethodSpec,
    default_method,
    method_spec,
    self_influence_spec,
)
from undue_service.domain.mislabels import Mislabels
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.reports import DatasetReport, ModelReport
from undue_service.domain.resources import Registration
from undue_service.domain.specs import (
    Fidelity,
    FidelitySettings,
    Influence,
    Leverage,
    ModelSpec,
    RequestedJob,
    Retrain,
    ScoringJob,
    SelfInfluence,
    ranking_of,
)

from .perturb_admission import check_perturb


def check_method(spec: RequestedJob) -> None:
    """Hold a job against the registry of methods.

    Raises:
        InvalidArgument: METHOD_UNKNOWN; INVALID_FIELD for a setting that the method has not, or self-influence by one
            that ranks no row; LEVERAGE_UNAVAILABLE.
    """
    match spec:
        case Influence(method=name) | Fidelity(method=name) | GroupInfluence(method=name) if name:
            check_settings(f"job.{spec.kind}", spec, method_spec(name))
        case Compare(method=name, other_method=other):
            for each in filter(None, (name, other)):
                check_settings(f"job.{spec.kind}", spec, method_spec(each))
        case SelfInfluence(method=name) if name:
            check_settings(f"job.{spec.kind}", spec, self_influence_spec(name))


def settled_method(spec: RequestedJob, model: Registration) -> RequestedJob:
    """Return the job with the method that it gets where it names none.

    Raises:
        InvalidArgument: PARAMETERS_NOT_FOUND; as `check_method`.
    """
    if not isinstance(spec, ScoringJob | Mislabels) or spec.method:
        return spec
    if isinstance(spec, Mislabels) and ranking_of(spec) is None:
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
            for flips of a regression; INPUT_NOT_DIFFERENTIABLE; INVALID_FIELD for a measurement that a regression has
            not, for settings that retraining has not, or for more candidates than rows.
        FailedPrecondition: TOO_MANY_PARAMETERS; RECIPE_MISSING; CHECKPOINTS_MISSING; LEVERAGE_UNAVAILABLE.
    """
    field = f"job.{spec.kind}"
    rows = trained_on(f"{field}.train", train)
    if isinstance(spec, Perturb):
        assert test is not None  # noqa: S101  it names one
        _check_perturb(field, spec, model, rows, dataset_report(test))
        return
    if test is not None and not isinstance(spec, SelfInfluence | Leverage | Mislabels):
        check_rows(f"{field}.rows", spec.rows, dataset_report(test).rows)
    found = selected(spec, model)
    regression = isinstance(model.spec, ModelSpec) and model.spec.objective.name == "squared_error"
    if regression and not isinstance(spec, SelfInfluence | Leverage | Mislabels) and spec.measurement != "loss":
        text = f"{spec.measurement!r} is of a class, and {model.name} is a regression: use 'loss'"
        raise InvalidArgument.at(f"{field}.measurement", text)
    match spec:
        case (
            Influence(method=name)
            | SelfInfluence(method=name)
            | Fidelity(method=name)
            | GroupInfluence(method=name)
            | Compare(method=name)
        ):
            check_size(method_spec(name), found)
            _check_checkpoints(field, spec, method_spec(name), model)
            check_leverage(field, spec, found)
            _check_fidelity(field, spec, model, rows.rows)
            if isinstance(spec, GroupInfluence):
                _check_groups(field, spec, model, train)
        case Leverage():
            if not found.linear_head:
                text = (
                    f"{model.name} is not linear in every selected parameter, and the closed forms are those of a "
                    "linear model: register it with parameters= of its last layer"
                )
                raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text)
            check_dense("leverage", DENSE_PARAMETER_LIMIT, found)
        case Retrain():
            _check_retrain(field, spec, model, found, rows.rows)


def settled_other(spec: Compare, other: Registration) -> Compare:
    """Return a comparison with the other model's version and method, held against what is known of it.

    Raises:
        InvalidArgument: as `check_method`; LEVERAGE_UNAVAILABLE; INVALID_FIELD for a measurement that a regression has
            not.
        FailedPrecondition: TOO_MANY_PARAMETERS; CHECKPOINTS_MISSING.
    """
    field = f"job.{spec.kind}"
    report = model_report(other)
    if (
        isinstance(other.spec, ModelSpec)
        and other.spec.objective.name == "squared_error"
        and spec.measurement != "loss"
    ):
        text = f"{spec.measurement!r} is of a class, and {other.name} is a regression: use 'loss'"
        raise InvalidArgument.at(f"{field}.measurement", text)
    name = spec.other_method or default_method(report.linear_head, report.dim)
    settled = replace(spec, other=other.name, other_method=name)
    check_method(settled)
    check_size(method_spec(name), report)
    _check_checkpoints(field, settled, method_spec(name), other)
    if spec.leverage_correction and not report.linear_head:
        text = f"needs outputs that are linear in every selected parameter, which those of {other.name} are not"
        raise InvalidArgument.at(f"{field}.leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)
    return settled


def trained_on(field: str, train: Registration) -> DatasetReport:
    """Return what is known of training data that a model can have learned from.

    Raises:
        InvalidArgument: TARGETS_MISSING; DATASET_DEGENERATE.
    """
    rows = dataset_report(train)
    if rows.target is None:
        text = f"{train.name} has no targets, so no row of it has a loss: register it with targets"
        raise InvalidArgument.at(field, text, Reason.TARGETS_MISSING)
    if not (rows.inputs_vary and rows.targets_vary):
        same = "the same target, of one class or number only" if rows.inputs_vary else "the same inputs"
        text = f"every row of {train.name} has {same}, so there is nothing that a model could have learned from it"
        raise InvalidArgument.at(field, text, Reason.DATASET_DEGENERATE)
    return rows


def check_leverage(field: str, spec: ScoringJob, model: ModelReport) -> None:
    """Hold a correction for leverage against the model.

    Raises:
        InvalidArgument: LEVERAGE_UNAVAILABLE.
    """
    if spec.leverage_correction and not model.linear_head and not spec.parameters:
        text = "needs a model whose outputs are linear in every selected parameter, which this one's are not"
        raise InvalidArgument.at(f"{field}.leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)


def check_recipe(
    field: str, spec: Retrain | FidelitySettings | GroupInfluence | Mislabels | Perturb, model: Registration
) -> None:
    """Hold what is to be trained again against the recipe that its model was registered with.

    Raises:
        FailedPrecondition: RECIPE_MISSING where the model is no linear head and has none, or has no cold start.
    """
    if model_report(model).linear_head or not isinstance(model.spec, ModelSpec):
        return
    if model.spec.training is None:
        text = (
            f"{model.name} is not linear in every selected parameter, so it is trained again by the recipe that it was "
            "trained by, and it has none: register it with training=undue.Training(…), or with parameters= of its last "
            "layer, which is fitted to its minimum"
        )
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)
    if not isinstance(spec, Perturb) and spec.start == "cold" and model.spec.training.init is None:
        text = f"{field}.start: the recipe of {model.name} says nothing of initial weights: register it with init="
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)


def check_rows(field: str, rows: Iterable[int], length: int) -> None:
    """Hold row numbers against the length of their data set.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE.
    """
    wrong = next((row for row in rows if not 0 <= row < length), None)
    if wrong is not None:
        text = f"row {wrong} does not exist; the data set has {length:,} rows, numbered from 0"
        raise InvalidArgument.at(field, text, Reason.ROW_OUT_OF_RANGE)


def dataset_report(registration: Registration) -> DatasetReport:
    """Return what validation found in a data set that is READY."""
    assert isinstance(registration.report, DatasetReport)  # noqa: S101  it is ready
    return registration.report


def model_report(registration: Registration) -> ModelReport:
    """Return what validation found in a model that is READY."""
    assert isinstance(registration.report, ModelReport)  # noqa: S101  it is ready
    return registration.report


def _check_perturb(field: str, spec: Perturb, model: Registration, train: DatasetReport, test: DatasetReport) -> None:
    if isinstance(model.spec, ModelSpec) and model.spec.objective.name == "squared_error":
        text = f"{model.name} is a regression, whose predictions are numbers: none flips"
        raise InvalidArgument.at(f"{field}.model", text, Reason.OBJECTIVE_MISMATCH)
    for place, targets in enumerate(spec.attacks):
        check_rows(f"{field}.attacks[{place}].rows", targets, test.rows)
    check_perturb(spec, model_report(model), train)
    check_recipe(field, spec, model)
    if model_report(model).linear_head:
        check_dense("perturb", DENSE_PARAMETER_LIMIT, model_report(model))


def _check_retrain(field: str, spec: Retrain, model: Registration, found: ModelReport, train_rows: int) -> None:
    """Hold what is to be fitted again against the recipe and the rows that there are."""
    check_recipe(field, spec, model)
    for name in ("tolerance", "max_iterations"):
        if getattr(spec, name) is not None and not found.linear_head:
            text = f"{model.name} is trained again for the epochs of its recipe: leave {name} out"
            raise InvalidArgument.at(f"{field}.{name}", text)
    for place, without in enumerate(spec.without):
        check_rows(f"{field}.without[{place}].rows", without, train_rows)
    for place, edit in enumerate(spec.counterfactuals):
        for part, named in edit.rows().items():
            check_rows(f"{field}.counterfactuals[{place}].{part}", named, train_rows)


def _check_fidelity(field: str, spec: ScoringJob, model: Registration, train_rows: int) -> None:
    """Hold how scores are to be held against retraining against the model and the rows that there are."""
    settings, at = None, field
    if isinstance(spec, Fidelity):
        settings, at = spec.settings, f"{field}.settings"
    elif isinstance(spec, Influence):
        settings, at = spec.fidelity, f"{field}.fidelity"
    if settings is None:
        return
    if isinstance(spec, Influence) and spec.aggregate is not None:
        text = "scores of rows that are explained together are not held against retraining: leave aggregate out"
        raise InvalidArgument.at(at, text)
    if train_rows < 2:
        raise InvalidArgument.at(f"{field}.train", "has one row: without it nothing would be left to train on")
    check_recipe(at, settings, model)


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
        check_recipe(f"{field}.reweight", spec, model)
    elif spec.start is not None or spec.seeds != 1:
        text = "nothing is retrained: leave start and seeds out, or reweight some group"
        raise InvalidArgument.at(f"{field}.reweight_top", text)


def check_settings(field: str, spec: ScoringJob, method: MethodSpec) -> None:
    """Hold the settings of a job of scores against the method that it names.

    Raises:
        InvalidArgument: INVALID_FIELD; LEVERAGE_UNAVAILABLE.
    """
    for name in ("tolerance", "max_iterations"):
        if getattr(spec, name) is not None and not method.is_iterative:
            raise InvalidArgument.at(f"{field}.{name}", f"{method.name} does not iterate: leave {name} out")
    if spec.rank is not None and not method.rank:
        raise InvalidArgument.at(f"{field}.rank", f"{method.name} truncates nothing: leave rank out")
    if spec.normalization is not None and not method.has_normalization:
        text = f"{method.name} has one normalization only: leave normalization out"
        raise InvalidArgument.at(f"{field}.normalization", text)
    if spec.leverage_correction and not method.has_leverage_correction:
        text = f'{method.name} has no leverage correction; use method="exact", or leave leverage_correction out'
        raise InvalidArgument.at(f"{field}.leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)


def _check_checkpoints(field: str, spec: ScoringJob, method: MethodSpec, model: Registration) -> None:
    if spec.ensemble and method.uses_checkpoints:
        text = f"{method.name} works over all checkpoints already: leave ensemble out"
        raise InvalidArgument.at(f"{field}.ensemble", text)
    none = isinstance(model.spec, ModelSpec) and not model.spec.checkpoints
    if none and (spec.ensemble or method.needs_checkpoints):
        what = "ensemble averages over" if spec.ensemble else f"{method.name} works over"
        text = f"{what} the model's checkpoints, and {model.name} has none: register it with checkpoints="
        raise FailedPrecondition(Reason.CHECKPOINTS_MISSING, text)


def check_size(method: MethodSpec, model: ModelReport) -> None:
    """Hold the size of a model against what a method can work on.

    Raises:
        FailedPrecondition: TOO_MANY_PARAMETERS.
    """
    if method.parameter_limit is not None:
        check_dense(method.name, method.parameter_limit, model, ', or use method="cg"')


def check_dense(what: str, limit: int, model: ModelReport, advice: str = "") -> None:
    """Hold the size of a model against that of a matrix that is written down.

    Raises:
        FailedPrecondition: TOO_MANY_PARAMETERS.
    """
    if model.dim > limit:
        text = (
            f"a dense Hessian over {model.dim:,} parameters would take {model.dim**2 * 8 / 2**30:,.1f} GiB; the limit "
            f"of {what} is {limit:,} parameters: register the model with fewer in parameters=, such as its last layer's"
            f"{advice}"
        )
        metadata = {"parameters": str(model.dim), "limit": str(limit)}
        raise FailedPrecondition(Reason.TOO_MANY_PARAMETERS, text, metadata=metadata)
