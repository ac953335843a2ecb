"""What is refused when a perturb job is asked for, with the field that is wrong and what to do."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from undue_service.application.admission import check_job
from undue_service.domain.costs import estimate
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.jobs import Job
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.perturbation import AttackSettings
from undue_service.domain.reports import ColumnSchema, DatasetReport, ModelReport, ParameterInfo, Speed
from undue_service.domain.resources import Registration
from undue_service.domain.specs import ArraysSource, ModelSpec, ObjectiveSpec, TrainingSpec
from undue_service.domain.validations import DatasetValidation, ModelValidation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = DatasetReport(9, (), ColumnSchema("y", "int64", ()), has_ids=False, has_weights=False, digest="d")
X = ColumnSchema("x", "float32", (2, 3))
SPEED = Speed(1e-4, 1e-4, 1e10, 2**27, 2**12)


def ready(collection, spec, report):
    job = Job("t", "j", ModelValidation("m") if collection == "models" else DatasetValidation("d"), NOW)
    return Registration("t", collection, "x", 1, spec, job.start(NOW).succeed(NOW, report, {}), NOW)


def data(**change):
    return ready("datasets", ArraysSource({}), replace(DATA, **change))


def a_model(*inputs, loss="cross_entropy", head=True, training=None):
    parameters = (ParameterInfo("weight", (3, 6), True, l2=True),)
    report = ModelReport(inputs or (X,), ("output",), parameters, "float32", head, "", None, 0, None, ())
    return ready("models", ModelSpec("pt2", "d", ObjectiveSpec(loss), training=training), report)


def asked(attacks=((0,), (8, 1)), **settings):
    return Perturb("m", "a", "b", attacks, AttackSettings(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"candidates": 9, "input": "x"},
        {"candidate_rows": (8, 0)},
        {"candidates": 2, "prefilter": 2},
        {"bound": "linf", "radius": 1.0, "minimum": (0.0,), "maximum": (1.0,) * 6, "fixed": (0, 5)},
    ],
)
def test_a_job_that_is_right_is_taken(settings):
    check_job(asked(**settings), a_model(), data(), data())
    check_job(asked((), **settings), a_model(head=False, training=TrainingSpec("sgd", 0.1, 1)), data(), data())


@pytest.mark.parametrize(
    ("settings", "field", "text"),
    [
        ({"candidates": 10}, "candidates", "9 training rows"),
        ({"candidates": 3, "candidate_rows": (1, 2)}, "candidates", "leave candidates out"),
        ({"candidates": 3, "prefilter": 2}, "prefilter", "at least as many"),
        ({"bound": "linf"}, "radius", "needs the radius"),
        ({"bound": "l2", "radius": 0.0}, "radius", "> 0"),
        ({"bound": "same_8bit", "radius": 1.0}, "radius", "leave radius out"),
        ({"minimum": (0.0, 1.0)}, "minimum", "has 6"),
        ({"minimum": (1.0,), "maximum": (0.0,)}, "maximum", "below its minimum"),
        ({"fixed": (6,)}, "fixed", "numbered from 0"),
        ({"fixed": (0, 1, 2, 3, 4, 5)}, "fixed", "nothing is left"),
        ({"input": "y"}, "input", "it has 'x'"),
    ],
)
def test_a_wrong_setting_is_named(settings, field, text):
    with pytest.raises(InvalidArgument, match=text) as caught:
        check_job(asked(**settings), a_model(), data(), data())
    assert [one.field for one in caught.value.violations] == [f"job.perturb.{field}"]
    assert caught.value.reason is Reason.INVALID_FIELD


def test_an_attack_is_named_once():
    check_job(asked(((0,), (0, 1), (1,))), a_model(), data(), data())
    with pytest.raises(InvalidArgument, match="as attack 1") as caught:
        check_job(asked(((0,), (1, 2), (2, 1))), a_model(), data(), data())
    assert [one.field for one in caught.value.violations] == ["job.perturb.attacks[2].rows"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (asked(((0,), (9, 1))), "attacks[1].rows"),
        (asked(candidate_rows=(3, 9)), "candidate_rows"),
    ],
)
def test_rows_that_do_not_exist_are_named(spec, field):
    with pytest.raises(InvalidArgument, match="row 9 does not exist") as caught:
        check_job(spec, a_model(), data(), data())
    assert caught.value.reason is Reason.ROW_OUT_OF_RANGE
    assert [one.field for one in caught.value.violations] == [f"job.perturb.{field}"]


def test_tokens_are_refused_with_what_to_do_instead():
    tokens = ColumnSchema("tokens", "int64", (12,))
    without_recipe = a_model(tokens, head=False)
    for model, settings in ((a_model(tokens), {}), (without_recipe, {}), (a_model(tokens, X), {"input": "tokens"})):
        with pytest.raises(InvalidArgument, match="perturb embeddings instead") as caught:
            check_job(asked(**settings), model, data(), data())
        assert caught.value.reason is Reason.INPUT_NOT_DIFFERENTIABLE
    check_job(asked(), a_model(tokens, X), data(), data())
    with pytest.raises(InvalidArgument, match="name the one to perturb: the model has 'x', 'z'"):
        check_job(asked(), a_model(X, ColumnSchema("z", "float64", ())), data(), data())


def test_a_recipe_that_is_missing_is_missed():
    with pytest.raises(FailedPrecondition, match="training=") as caught:
        check_job(asked(), a_model(head=False), data(), data())
    assert caught.value.reason is Reason.RECIPE_MISSING


def test_targets_that_are_missing_are_missed():
    with pytest.raises(InvalidArgument, match="register it with targets") as caught:
        check_job(asked(), a_model(), data(target=None), data())
    assert caught.value.reason is Reason.TARGETS_MISSING
    check_job(asked(), a_model(), data(), data(target=None))  # what the model says is to flip


def test_a_head_that_is_too_large_is_refused():
    parameters = (ParameterInfo("weight", (1000, 13), True, l2=True),)
    large = a_model()
    large = replace(large, validation=replace(large.validation, report=replace(large.report, parameters=parameters)))
    with pytest.raises(FailedPrecondition) as caught:
        check_job(asked(), large, data(), data())
    assert caught.value.reason is Reason.TOO_MANY_PARAMETERS


def test_nothing_flips_in_a_regression():
    with pytest.raises(InvalidArgument, match="none flips") as caught:
        check_job(asked(), a_model(loss="squared_error"), data(), data())
    assert caught.value.reason is Reason.OBJECTIVE_MISMATCH


@pytest.mark.parametrize("head", [True, False])
def test_an_estimate_grows_with_what_is_asked(head):
    report = a_model(head=head).report
    recipe = TrainingSpec("sgd", 0.1, 5, batch_size=3)

    def seconds(attacks=((0,),), **settings):
        return estimate(asked(attacks, **settings), report, SPEED, 9, 9, training=recipe).seconds

    base = seconds(control=False, iterations=10)
    assert 0 < base < seconds(control=True, iterations=10) < seconds(control=True, iterations=100)
    assert base < seconds(((0,), (1,)), control=False, iterations=10)
