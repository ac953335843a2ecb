"""What is known to be wrong with a job before a runner sees it: from the registry of methods and the reports."""

from collections.abc import Iterable
from dataclasses import replace

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.methods import MethodSpec, default_method, method_spec, self_influence_spec
from undue_service.domain.reports import DatasetReport, ModelReport
from undue_service.domain.resources import Registration
from undue_service.domain.specs import Influence, ModelSpec, RequestedJob, Retrain, SelfInfluence


def check_method(spec: RequestedJob) -> None:
    """Hold a job against the registry of methods.

    Raises:
        InvalidArgument: METHOD_UNKNOWN; INVALID_FIELD for a setting that the method has not, or self-influence by one
            that ranks no row; LEVERAGE_UNAVAILABLE.
    """
    match spec:
        case Influence(method=name) if name:
            _check_settings(spec, method_spec(name))
        case SelfInfluence(method=name) if name:
            _check_settings(spec, self_influence_spec(name))


def settled_method(spec: RequestedJob, model: Registration) -> RequestedJob:
    """Return the job with the method that it gets where it names none.

    Raises:
        InvalidArgument: PARAMETERS_NOT_FOUND; as `check_method`.
    """
    if not isinstance(spec, Influence | SelfInfluence) or spec.method:
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
    return model_report(model).selecting(spec.parameters if isinstance(spec, Influence | SelfInfluence) else ())


def check_job(spec: RequestedJob, model: Registration, train: Registration, test: Registration | None) -> None:
    """Hold a job against what is known of its model and data.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; TARGETS_MISSING; DATASET_DEGENERATE; LEVERAGE_UNAVAILABLE; INVALID_FIELD
            for a measurement that a regression has not.
        FailedPrecondition: TOO_MANY_PARAMETERS; RETRAIN_UNSUPPORTED; CHECKPOINTS_MISSING.
    """
    field = f"job.{spec.kind}"
    rows = dataset_report(train)
    if rows.target is None:
        text = f"{train.name} has no targets, so no row of it has a loss: register it with targets"
        raise InvalidArgument.at(f"{field}.train", text, Reason.TARGETS_MISSING)
    if not (rows.inputs_vary and rows.targets_vary):
        same = "the same target, of one class or number only" if rows.inputs_vary else "the same inputs"
        text = f"every row of {train.name} has {same}, so there is nothing that a model could have learned from it"
        raise InvalidArgument.at(f"{field}.train", text, Reason.DATASET_DEGENERATE)
    if test is not None and not isinstance(spec, SelfInfluence):
        check_rows(f"{field}.rows", spec.rows, dataset_report(test).rows)
    found = selected(spec, model)
    regression = isinstance(model.spec, ModelSpec) and model.spec.objective.name == "squared_error"
    if regression and not isinstance(spec, SelfInfluence) and spec.measurement != "loss":
        text = f"{spec.measurement!r} is of a class, and {model.name} is a regression: use 'loss'"
        raise InvalidArgument.at(f"{field}.measurement", text)
    match spec:
        case Influence(method=name) | SelfInfluence(method=name):
            _check_size(method_spec(name), found)
            _check_checkpoints(field, spec, method_spec(name), model)
            if spec.leverage_correction and not found.linear_head and not spec.parameters:
                text = "needs a model whose outputs are linear in every selected parameter, which this one's are not"
                raise InvalidArgument.at(f"{field}.leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)
        case Retrain():
            if not found.linear_head:
                text = (
                    f"{model.name} is not linear in every selected parameter, so its objective is not convex and has "
                    "no one minimum to go to: register it with parameters= of its last layer"
                )
                raise FailedPrecondition(Reason.RETRAIN_UNSUPPORTED, text)
            for place, without in enumerate(spec.without):
                check_rows(f"{field}.without[{place}].rows", without, rows.rows)


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


def _check_settings(spec: Influence | SelfInfluence, method: MethodSpec) -> None:
    field = f"job.{spec.kind}"
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


def _check_checkpoints(field: str, spec: Influence | SelfInfluence, method: MethodSpec, model: Registration) -> None:
    if spec.ensemble and method.uses_checkpoints:
        text = f"{method.name} works over all checkpoints already: leave ensemble out"
        raise InvalidArgument.at(f"{field}.ensemble", text)
    none = isinstance(model.spec, ModelSpec) and not model.spec.checkpoints
    if none and (spec.ensemble or method.needs_checkpoints):
        what = "ensemble averages over" if spec.ensemble else f"{method.name} works over"
        text = f"{what} the model's checkpoints, and {model.name} has none: register it with checkpoints="
        raise FailedPrecondition(Reason.CHECKPOINTS_MISSING, text)


def _check_size(method: MethodSpec, model: ModelReport) -> None:
    if method.parameter_limit is not None and model.dim > method.parameter_limit:
        text = (
            f"a dense Hessian over {model.dim:,} parameters would take {model.dim**2 * 8 / 2**30:,.1f} GiB; the limit "
            f"of {method.name} is {method.parameter_limit:,} parameters: register the model with fewer in parameters=, "
            'such as its last layer\'s, or use method="cg"'
        )
        metadata = {"parameters": str(model.dim), "limit": str(method.parameter_limit)}
        raise FailedPrecondition(Reason.TOO_MANY_PARAMETERS, text, metadata=metadata)
