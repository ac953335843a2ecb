"""What is refused when a job is asked for, and the method that it gets where it names none."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from undue_service.application.admission import check_job, check_method, selected, settled_method, settled_other
from undue_service.domain import methods
from undue_service.domain.comparison import Compare
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.group_influence import GroupInfluence, Reweighting
from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Job
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT, METHODS, MethodSpec, default_method
from undue_service.domain.reports import ColumnSchema, DatasetReport, GroupSchema, ModelReport, ParameterInfo
from undue_service.domain.resources import Registration
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import ArraysSource, CheckpointSpec, ModelSpec, ObjectiveSpec, TrainingSpec, WeightsFile
from undue_service.domain.validations import DatasetValidation, ModelValidation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = DatasetReport(
    4,
    (),
    ColumnSchema("y", "int64", ()),
    has_ids=False,
    has_weights=False,
    digest="d",
    groups=(GroupSchema("site", 2), GroupSchema("year", 3)),
)
CHECKPOINT = CheckpointSpec(WeightsFile("pt2", "c"), 0.1)


def ready(collection, spec, report):
    job = Job("t", "j", ModelValidation("m") if collection == "models" else DatasetValidation("d"), NOW)
    return Registration("t", collection, "x", 1, spec, job.start(NOW).succeed(NOW, report, {}), NOW)


ROWS = ready("datasets", ArraysSource({}), DATA)


def a_model(shapes=None, head=False, checkpoints=(), chosen=None):
    """Return a model of some parameters, all of them selected or those that are chosen."""
    shapes = shapes or {"body.weight": (20, 3), "last.weight": (3, 20), "last.bias": (3,)}
    parameters = tuple(
        ParameterInfo(name, shape, chosen is None or name in chosen, l2=True) for name, shape in shapes.items()
    )
    recipe = TrainingSpec("sgd", 0.1, 1)  # fidelity asks for one
    spec = ModelSpec("pt2", "d", ObjectiveSpec("cross_entropy"), training=recipe, checkpoints=checkpoints)
    report = ModelReport((), ("output",), parameters, "float32", head, "", None, 0, None, ())
    return ready("models", spec, report)


GROUPS = GroupInfluence("m", "a", "b", (0,), ("site",))
JOBS = [Influence("m", "a", "b"), SelfInfluence("m", "a"), Fidelity("m", "a", "b"), GROUPS, Compare("m", "a", "b")]
KINDS = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.kind)


def changed(job, **settings):
    return type(job)(**{name: getattr(job, name) for name in job.__slots__} | settings)


def admit(job, model):
    """Do what CreateJob does with a job, once its resources are known."""
    check_method(job)
    job = settled_method(job, model)
    check_job(job, model, ROWS, None if isinstance(job, SelfInfluence) else ROWS)
    return job


@pytest.fixture
def truncating(monkeypatch):
    """A registry with a method of every setting, as those that are to come will be."""
    spec = MethodSpec(
        "cut", "removal", "", uses_damping=True, has_leverage_correction=False, rank="it", has_normalization=True
    )
    monkeypatch.setattr(methods, "METHODS", {**METHODS, "cut": spec})


@KINDS
@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"method": "exact", "rank": 3}, "rank"),
        ({"method": "exact", "normalization": "theta"}, "normalization"),
        ({"method": "exact", "tolerance": 1e-3}, "tolerance"),
        ({"method": "grad_dot", "max_iterations": 3}, "max_iterations"),
        ({"method": "", "rank": 3}, "rank"),
        ({"method": "", "normalization": "loss"}, "normalization"),
    ],
)
def test_a_setting_that_the_method_has_not_is_named(job, settings, field):
    with pytest.raises(InvalidArgument, match=f"leave {field} out") as caught:
        admit(changed(job, **settings), a_model(head=True))
    assert [one.field for one in caught.value.violations] == [f"job.{job.kind}.{field}"]


@KINDS
def test_a_setting_that_the_method_has_is_taken(job, truncating):
    asked = changed(job, method="cut", rank=3, normalization="loss")
    assert admit(asked, a_model()) == asked


@KINDS
def test_a_setting_is_refused_before_a_resource_is_looked_up(job):
    with pytest.raises(InvalidArgument):
        check_method(changed(job, method="exact", rank=3))
    with pytest.raises(InvalidArgument) as caught:
        check_method(changed(job, method="magic"))
    assert caught.value.reason is Reason.METHOD_UNKNOWN
    check_method(changed(job, method="", rank=3))  # it depends on the model which method that is


@KINDS
@pytest.mark.parametrize("settings", [{"method": "grad_dot", "ensemble": True}, {"method": "tracin"}])
def test_checkpoints_that_the_model_has_not_are_missed(job, settings):
    with pytest.raises(FailedPrecondition, match="checkpoints=") as caught:
        admit(changed(job, **settings), a_model())
    assert caught.value.reason is Reason.CHECKPOINTS_MISSING
    admit(changed(job, **settings), a_model(checkpoints=(CHECKPOINT,)))


@KINDS
@pytest.mark.parametrize("checkpoints", [(), (CHECKPOINT,)])
def test_an_average_of_what_is_one_already_is_refused(job, checkpoints):
    with pytest.raises(InvalidArgument, match="over all checkpoints already") as caught:
        admit(changed(job, method="tracin", ensemble=True), a_model(checkpoints=checkpoints))
    assert [one.field for one in caught.value.violations] == [f"job.{job.kind}.ensemble"]


@KINDS
@pytest.mark.parametrize("method", ["exact", ""])
@pytest.mark.parametrize("patterns", [("nothing",), ("last.*", "no.*"), ("last.?",)])
def test_parameters_that_match_nothing_are_refused_with_those_that_there_are(job, method, patterns):
    with pytest.raises(InvalidArgument, match=r"there are body\.weight, last\.weight, last\.bias") as caught:
        admit(changed(job, method=method, parameters=patterns), a_model())
    assert caught.value.reason is Reason.PARAMETERS_NOT_FOUND
    assert repr(patterns[-1]) in caught.value.message


@pytest.mark.parametrize(
    ("patterns", "dim", "head"),
    [((), 63, True), (("last.*",), 63, True), (("last.weight", "last.bias"), 63, True), (("body.*",), 60, False)],
)
def test_a_selection_counts_its_parameters_and_is_a_head_only_where_that_is_known(patterns, dim, head):
    model = a_model(head=True, chosen=("last.weight", "last.bias"))
    found = selected(Influence("m", "a", "b", parameters=patterns), model)
    assert (found.dim, found.linear_head) == (dim, head)


NETWORKS = "gauss_newton" if "gauss_newton" in METHODS else "cg"


@KINDS
@pytest.mark.parametrize(
    ("outputs", "head", "method"),
    [
        (1, True, "exact"),
        (DENSE_PARAMETER_LIMIT, True, "exact"),
        (DENSE_PARAMETER_LIMIT + 1, True, NETWORKS),
        (1, False, NETWORKS),
        (DENSE_PARAMETER_LIMIT + 1, False, NETWORKS),
    ],
)
def test_a_job_without_a_method_gets_one_by_head_and_size(job, outputs, head, method):
    asked = changed(job, method="")
    assert admit(asked, a_model({"w": (outputs,)}, head)) == changed(job, method=method)


@KINDS
def test_the_selected_parameters_decide(job):
    model = a_model({"body": (DENSE_PARAMETER_LIMIT, 2), "last": (10,)}, head=True, chosen=("last",))
    assert admit(changed(job, method=""), model).method == "exact"
    assert admit(changed(job, method="", parameters=("body",)), model).method == NETWORKS
    with pytest.raises(FailedPrecondition) as caught:
        admit(changed(job, method="exact", parameters=("body",)), model)
    assert caught.value.reason is Reason.TOO_MANY_PARAMETERS
    assert caught.value.metadata["parameters"] == str(2 * DENSE_PARAMETER_LIMIT)


@KINDS
def test_a_method_that_is_named_stays(job):
    asked = changed(job, method="grad_dot")
    assert settled_method(asked, a_model(head=True)) is asked


def test_whatever_is_chosen_can_do_what_may_be_asked():
    for head in (True, False):
        for dim in (1, DENSE_PARAMETER_LIMIT, DENSE_PARAMETER_LIMIT + 1):
            chosen = METHODS[default_method(head, dim)]
            assert chosen.has_self_influence
            assert not chosen.needs_checkpoints
            assert chosen.parameter_limit is None or dim <= chosen.parameter_limit


@pytest.mark.parametrize(
    ("settings", "field", "text"),
    [
        ({"by": ("site", "color")}, "by[1]", "'site', 'year'"),
        ({"reweight": (Reweighting("year", "a", 0),)}, "reweight[0].column", "name it in by"),
    ],
)
def test_a_column_of_groups_that_is_not_there_is_named(settings, field, text):
    with pytest.raises(InvalidArgument, match=text) as caught:
        admit(changed(GROUPS, **settings), a_model(head=True))
    assert caught.value.reason is Reason.COLUMN_NOT_FOUND
    assert caught.value.violations[0].field == f"job.group_influence.{field}"


def test_what_is_reweighted_needs_a_recipe_unless_nothing_is():
    bare = a_model()
    bare = replace(bare, spec=replace(bare.spec, training=None))
    for job in (GROUPS, changed(GROUPS, reweight=(Reweighting("site", "a", 0),), reweight_top=0)):
        with pytest.raises(FailedPrecondition) as caught:
            admit(job, bare)
        assert caught.value.reason is Reason.RECIPE_MISSING
        admit(job, a_model())
    admit(changed(GROUPS, reweight_top=0), bare)
    with pytest.raises(InvalidArgument, match="nothing is retrained"):
        admit(changed(GROUPS, reweight_top=0, seeds=2), bare)


def test_another_model_gets_the_method_that_suits_it():
    job = Compare("m", "a", "b", other="n")
    settled = settled_other(job, a_model())
    assert (settled.other, settled.other_method) == ("models/x/versions/1", "gauss_newton")
    assert settled_other(job, a_model(head=True)).other_method == "exact"
    assert settled_other(changed(job, other_method="cg"), a_model()).other_method == "cg"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"other_method": "magic"}, Reason.METHOD_UNKNOWN),
        ({"other_method": "exact", "rank": 3}, Reason.INVALID_FIELD),
        ({"other_method": "tracin"}, Reason.CHECKPOINTS_MISSING),
        ({"other_method": "exact", "leverage_correction": True}, Reason.LEVERAGE_UNAVAILABLE),
    ],
)
def test_another_model_is_held_against_what_is_asked(settings, reason):
    with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
        settled_other(changed(Compare("m", "a", "b", other="n"), **settings), a_model())
    assert caught.value.reason is reason
