"""What several kinds of jobs are held against: their rows, their method's settings, a model's size and its recipe."""

from collections.abc import Iterable

from undue_service.domain.choices import Measurement, Start
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.methods import MethodSpec
from undue_service.domain.reports import DatasetReport, ModelReport
from undue_service.domain.resources import Registration
from undue_service.domain.specs import ScoringJob

from .validated import dataset_report, is_regression, model_report, model_spec


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


def check_rows(field: str, rows: Iterable[int], length: int) -> None:
    """Hold row numbers against the length of their data set.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE.
    """
    wrong = next((row for row in rows if not 0 <= row < length), None)
    if wrong is not None:
        text = f"row {wrong} does not exist; the data set has {length:,} rows, numbered from 0"
        raise InvalidArgument.at(field, text, Reason.ROW_OUT_OF_RANGE)


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


def check_measurement(field: str, measurement: Measurement, model: Registration) -> None:
    """Hold a measurement against what its model predicts.

    Raises:
        InvalidArgument: INVALID_FIELD for one that a regression has not.
    """
    if measurement != "loss" and is_regression(model):
        text = f"{measurement!r} is of a class, and {model.name} is a regression: use 'loss'"
        raise InvalidArgument.at(f"{field}.measurement", text)


def check_scoring(field: str, spec: ScoringJob, method: MethodSpec, model: Registration, found: ModelReport) -> None:
    """Hold a method against what is known of the model that it is to score rows by.

    Raises:
        InvalidArgument: INVALID_FIELD for an ensemble of what works over all checkpoints already.
        FailedPrecondition: TOO_MANY_PARAMETERS; CHECKPOINTS_MISSING.
    """
    check_size(method, found)
    _check_checkpoints(field, spec, method, model)


def check_leverage(field: str, spec: ScoringJob | IndexSpec, model: ModelReport) -> None:
    """Hold a correction for leverage against the model.

    Raises:
        InvalidArgument: LEVERAGE_UNAVAILABLE.
    """
    if spec.leverage_correction and not model.linear_head and not spec.parameters:
        text = "needs a model whose outputs are linear in every selected parameter, which this one's are not"
        raise InvalidArgument.at(f"{field}.leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)


def check_recipe(field: str, model: Registration, start: Start | None = None) -> None:
    """Hold what is to be trained again, from where it asks for, against the recipe that its model was registered with.

    Raises:
        FailedPrecondition: RECIPE_MISSING where the model is no linear head and has none, or has no cold start.
    """
    if model_report(model).linear_head:
        return
    training = model_spec(model).training
    if training is None:
        text = (
            f"{model.name} is not linear in every selected parameter, so it is trained again by the recipe that it was "
            "trained by, and it has none: register it with training=undue.Training(…), or with parameters= of its last "
            "layer, which is fitted to its minimum"
        )
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)
    if start == "cold" and training.init is None:
        text = f"{field}.start: the recipe of {model.name} says nothing of initial weights: register it with init="
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)


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


def _check_checkpoints(field: str, spec: ScoringJob, method: MethodSpec, model: Registration) -> None:
    if spec.ensemble and method.uses_checkpoints:
        text = f"{method.name} works over all checkpoints already: leave ensemble out"
        raise InvalidArgument.at(f"{field}.ensemble", text)
    none = not model_spec(model).checkpoints
    if none and (spec.ensemble or method.needs_checkpoints):
        what = "ensemble averages over" if spec.ensemble else f"{method.name} works over"
        text = f"{what} the model's checkpoints, and {model.name} has none: register it with checkpoints="
        raise FailedPrecondition(Reason.CHECKPOINTS_MISSING, text)
