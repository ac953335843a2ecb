"""What of a mislabels job is refused before a runner sees it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from undue_service.application.admission import settled_method
from undue_service.application.mislabels_admission import check_mislabels_asked, check_mislabels_job
from undue_service.domain.costs import estimate
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.jobs import Job
from undue_service.domain.mislabels import KnownRows, Mislabels
from undue_service.domain.reports import ColumnSchema, DatasetReport, ModelReport, ParameterInfo, Speed
from undue_service.domain.resources import Registration
from undue_service.domain.specs import ArraysSource, ModelSpec, ObjectiveSpec, TrainingSpec, named_resources
from undue_service.domain.validations import DatasetValidation, ModelValidation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = DatasetReport(40, (), ColumnSchema("y", "int64", ()), has_ids=False, has_weights=False, digest="d")
ASKED = Mislabels("m", "a", "b")
LISTED = Mislabels("m", "a", protocol="as_is")


def ready(collection, spec, report):
    job = Job("t", "j", ModelValidation("m") if collection == "models" else DatasetValidation("d"), NOW)
    return Registration("t", collection, "x", 1, spec, job.start(NOW).succeed(NOW, report, {}), NOW)


def a_model(head=True, loss="cross_entropy", training=None, width=20):
    parameters = (ParameterInfo("weight", (3, width), selected=True, l2=True),)
    spec = ModelSpec("pt2", "d", ObjectiveSpec(loss), training=training)
    return ready(
        "models",
        spec,
        ModelReport((), ("output",), parameters, "float32", head, "", None, 0, None, (), outputs_per_row=3),
    )


ROWS = ready("datasets", ArraysSource({}), DATA)
BARE = ready("datasets", ArraysSource({}), replace(DATA, target=None))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (replace(ASKED, test=""), "job.mislabels.test"),
        (replace(LISTED, test="b"), "job.mislabels.test"),
        (replace(ASKED, flip=0.6), "job.mislabels.flip"),
        (replace(ASKED, method="representation"), "method"),
        (replace(ASKED, method="tracin"), "job.mislabels.method"),
        (replace(ASKED, method="ekfac", leverage_correction=True), "job.mislabels.leverage_correction"),
        (replace(ASKED, method="guess"), "method"),
    ],
)
def test_what_cannot_be_asked(spec, field):
    with pytest.raises(InvalidArgument) as caught:
        check_mislabels_asked(spec)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("spec", "model", "test", "error", "reason"),
    [
        (ASKED, a_model(loss="squared_error"), ROWS, InvalidArgument, Reason.OBJECTIVE_MISMATCH),
        (ASKED, a_model(), BARE, InvalidArgument, Reason.TARGETS_MISSING),
        (
            replace(ASKED, protocol="known", known=KnownRows((40,))),
            a_model(),
            ROWS,
            InvalidArgument,
            Reason.ROW_OUT_OF_RANGE,
        ),
        (ASKED, a_model(head=False), ROWS, FailedPrecondition, Reason.RECIPE_MISSING),
        (LISTED, a_model(head=False), None, FailedPrecondition, Reason.RECIPE_MISSING),
        (
            replace(ASKED, start="cold"),
            a_model(head=False, training=TrainingSpec("sgd", 0.1, 1)),
            ROWS,
            FailedPrecondition,
            Reason.RECIPE_MISSING,
        ),
        (
            replace(ASKED, leverage_correction=True, method="gauss_newton"),
            a_model(head=False),
            ROWS,
            InvalidArgument,
            None,
        ),
        (replace(ASKED, method="exact"), a_model(width=10_000), ROWS, FailedPrecondition, Reason.TOO_MANY_PARAMETERS),
    ],
)
def test_what_does_not_fit_model_and_data(spec, model, test, error, reason):
    with pytest.raises(error) as caught:
        check_mislabels_job(settled_method(spec, model), model, ROWS, test)
    assert reason is None or caught.value.reason is reason


def test_what_fits():
    for spec, model, test in (
        (ASKED, a_model(), ROWS),
        (ASKED, a_model(head=False, training=TrainingSpec("sgd", 0.1, 1)), ROWS),
        (replace(LISTED, rankings=("self_influence", "loss")), a_model(head=False), None),
    ):
        settled = settled_method(spec, model)
        check_mislabels_asked(settled)
        check_mislabels_job(settled, model, ROWS, test)
        assert settled.method == ("exact" if model.report.linear_head else "gauss_newton")
    unranked = replace(ASKED, rankings=("loss",))
    assert settled_method(unranked, a_model()) == unranked


def test_a_job_names_what_it_works_on():
    assert named_resources(ASKED) == ("m", "a", "b")
    assert named_resources(LISTED) == ("m", "a")


def test_what_it_would_take_grows_with_what_is_asked():
    model, speed = a_model().report, Speed(1e-5, 1e-5, 1e10, 10**8, 1000)

    def seconds(spec, **more):
        return estimate(settled_method(spec, a_model()), model, speed, 1000, 100, **more).seconds

    whole = seconds(ASKED)
    assert whole > seconds(replace(ASKED, seeds=2)) > seconds(replace(ASKED, seeds=2, rankings=("loss",)))
    assert whole > seconds(LISTED) > 0
