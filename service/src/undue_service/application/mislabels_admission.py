"""What is known to be wrong with a mislabels job before a runner sees it."""

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.methods import method_spec, self_influence_spec
from undue_service.domain.mislabels import Mislabels, check_mislabels
from undue_service.domain.resources import Registration

from .checks import check_leverage, check_recipe, check_rows, check_settings, check_size
from .validated import dataset_report, is_regression, model_report

FIELD = "job.mislabels"


def check_mislabels_asked(spec: Mislabels) -> None:
    """Hold a job against what can be asked, and its method against the registry.

    Raises:
        InvalidArgument: INVALID_FIELD; METHOD_UNKNOWN; LEVERAGE_UNAVAILABLE.
    """
    check_mislabels(spec, FIELD)
    if spec.protocol != "as_is" and not spec.test:
        text = "name the data set on which accuracy is measured, once what was found is put right"
        raise InvalidArgument.at(f"{FIELD}.test", text)
    if spec.protocol == "as_is" and spec.test:
        raise InvalidArgument.at(f"{FIELD}.test", "where rows are only listed no accuracy is measured: leave test out")
    scoring = spec.scoring()
    if scoring is None or not scoring.method:
        return
    method = self_influence_spec(scoring.method)
    check_settings(FIELD, scoring, method)
    if method.needs_checkpoints:
        text = f"{method.name} works over checkpoints, and there are none of a training on other labels: name another"
        raise InvalidArgument.at(f"{FIELD}.method", text)


def check_mislabels_job(spec: Mislabels, model: Registration, train: Registration, test: Registration | None) -> None:
    """Hold a job against what is known of its model and data.

    Raises:
        InvalidArgument: OBJECTIVE_MISMATCH for a regression; ROW_OUT_OF_RANGE; TARGETS_MISSING; LEVERAGE_UNAVAILABLE.
        FailedPrecondition: TOO_MANY_PARAMETERS; RECIPE_MISSING.
    """
    found = model_report(model)
    if is_regression(model):
        text = f"{model.name} is a regression, whose targets are no labels: rank its rows by client.self_influence"
        raise InvalidArgument.at(f"{FIELD}.model", text, Reason.OBJECTIVE_MISMATCH)
    if test is not None and dataset_report(test).target is None:
        text = f"{test.name} has no targets, so accuracy cannot be measured on it: register it with targets"
        raise InvalidArgument.at(f"{FIELD}.test", text, Reason.TARGETS_MISSING)
    if spec.known is not None:
        check_rows(f"{FIELD}.known.rows", spec.known.rows, dataset_report(train).rows)
    scoring = spec.scoring()
    if scoring is not None:
        check_size(method_spec(scoring.method), found)
        check_leverage(FIELD, scoring, found)
    if spec.protocol != "as_is" or "confident_learning" in spec.rankings:
        check_recipe(FIELD, model, spec.start)
