"""Groups of training rows behind some predictions: sums of scores, and what reweighting really does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.group_influence import Reweighting
from undue_service.domain.specs import ObjectiveSpec, TrainingSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.group_influence import Question, group_influence
from undue_service.engine.heads.newton import Newton
from undue_service.engine.mean_scores import mean_scores
from undue_service.engine.methods import Problem
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.newton_retraining import NewtonRefits
from undue_service.engine.retraining.retrain import choose_refits, retrain
from undue_service.engine.retraining.training import Recipe

N, D = 60, 3
SITES = ["a"] * 30 + ["b"] * 20 + ["c"] * 10


@pytest.fixture(scope="module")
def fitted(program):
    """fitted(loss, weighted=False) → an objective at its minimum, its rows and other rows, with and without targets."""

    def make(loss, weighted=False):
        g = torch.Generator().manual_seed(3)
        x = torch.randn(2 * N, D, generator=g, dtype=torch.float64)
        signal = x.sum(dim=1) + torch.randn(2 * N, generator=g, dtype=torch.float64)
        y = signal[:, None] if loss == "squared_error" else (signal > 0).to(torch.int64)
        outputs = 2 if loss == "cross_entropy" else 1
        w = 0.5 + torch.rand(N, generator=g, dtype=torch.float64) if weighted else None
        rows = TensorRows({"x": x[:N]}, y[:N], w)
        away = Objective(program(nn.Linear(D, outputs), x[:3]), ObjectiveSpec(loss, 0.05))
        refits = NewtonRefits(away, rows, rows, [0], newton=Newton(1e-12))
        refits.baseline()
        star = away.space.unflatten(away.head.to_theta(refits._star.T))
        at = Objective(replace(away.program, parameters=star), away.spec)
        return at, rows, TensorRows({"x": x[N:]}, y[N:]), TensorRows({"x": x[N:]})

    return make


def refitting(objective, rows, test, **settings):
    settings = {"recipe": None, "start": None, "seeds": 1, "measurement": "loss", **settings}
    return lambda wanted: choose_refits(objective, rows, test, wanted, **settings)


@pytest.mark.parametrize("method", ["exact", "gauss_newton", "ekfac", "cg", "grad_dot", "grad_cos"])
def test_mean_scores_are_those_of_influence(fitted, method):
    at, rows, test, _ = fitted("cross_entropy", weighted=True)
    found = mean_scores(Problem(at, rows), test, [[1, 5, 7], [0]], method=method)
    for k, of in enumerate([[1, 5, 7], [0]]):
        one = influence(at, rows, test, rows=of, method=method, aggregate="mean", keep_scores=True)
        np.testing.assert_allclose(found.scores[k], one.scores[0], rtol=1e-5, atol=1e-9)
        assert found.facts[k].rows.tolist() == of
    assert "mean over 3 test rows" in found.diagnostics.estimand


def test_shares_and_lists_are_of_the_mean_cost(fitted):
    at, rows, test, _ = fitted("cross_entropy")
    asked = [2, 4, 9]
    found = group_influence(Problem(at, rows), test, Question(asked, {"site": SITES, "one": ["x"] * N}, top_k=3))
    one = influence(at, rows, test, rows=asked, aggregate="mean", top_k=3, keep_scores=True)
    for name in ("helpful_rows", "harmful_rows", "helpful_scores", "harmful_scores"):
        np.testing.assert_allclose(getattr(found.attribution, name), getattr(one, name), rtol=1e-9)
    assert found.attribution.diagnostics.estimand == one.diagnostics.estimand
    for share in found.columns["site"]:
        rows_of = [i for i in range(N) if SITES[i] == share.group]
        assert share.score.value == pytest.approx(one.scores[0, rows_of].sum(dtype=np.float64), rel=1e-5)
    [whole] = found.columns["one"]
    assert (whole.share, whole.row_share, whole.excess.value) == pytest.approx((1, 1, 1))
    listed = set(found.listed.rows.tolist())
    assert listed == {int(row) for of in found.columns.values() for share in of for row in share.rows[:3]}
    assert found.effects == ()
    assert found.rest_rows == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_of_least_squares_one_step_is_what_retraining_measures(fitted, weighted):
    """The output of a row is linear in θ and the objective quadratic: the corrected prediction is exact."""
    at, rows, _, blind = fitted("squared_error", weighted)
    asked = [Reweighting("site", group, factor) for group in "abc" for factor in (0, 0.3, 2)]
    question = Question([0, 3, 4], {"site": SITES}, asked)
    found = group_influence(Problem(at, rows), blind, question, refits=refitting(at, rows, blind))
    assert [(one.group, one.factor) for one in found.effects] == [(one.group, one.factor) for one in asked]
    for one in found.effects:
        for change in (one.on_rows, one.on_rest):
            assert change.corrected == pytest.approx(change.measured, rel=1e-6, abs=1e-10)
            assert change.predicted != pytest.approx(change.measured, rel=1e-3)
            assert change.accuracy is None
    assert found.rest_rows == N - 3


def test_removal_is_measured_as_retrain_does(fitted):
    at, rows, test, _ = fitted("binary_logistic")
    question = Question([0, 3, 4], {"site": SITES}, [Reweighting("site", "c", 0)])
    [one] = group_influence(Problem(at, rows), test, question, refits=refitting(at, rows, test)).effects
    gone = retrain(at, rows, test, without=[[i for i in range(N) if SITES[i] == "c"]])
    rest = [i for i in range(N) if i not in question.rows]
    assert one.on_rows.measured == pytest.approx(gone.changes[0, question.rows].mean(), abs=1e-10)
    assert one.on_rest.measured == pytest.approx(gone.changes[0, rest].mean(), abs=1e-10)
    assert one.on_rows.cost == pytest.approx(gone.costs[question.rows].mean(), abs=1e-10)
    assert one.rows == 10
    assert one.gradient_norm < 1e-10


@pytest.mark.parametrize("loss", ["binary_logistic", "cross_entropy"])
def test_accuracy_is_counted_at_the_minima(fitted, loss):
    """A group whose labels are turned round is weighted until it rules."""
    at, rows, test, _ = fitted(loss)
    [batch] = rows.batches(N)
    turned = batch.targets.clone()
    turned[:30] = 1 - turned[:30]
    rows = TensorRows(batch.inputs, turned)
    asked = [Reweighting("site", "a", factor) for factor in (1, 50, 0)]
    question = Question([0, 1, 2], {"site": SITES}, asked)
    found = group_influence(Problem(at, rows), test, question, refits=refitting(at, rows, test))
    same, ruling, gone = found.effects
    assert same.on_rest.accuracy == same.on_rest.accuracy_after
    assert abs(same.on_rest.measured) < 1e-10
    assert ruling.on_rest.accuracy_after < 0.4 < 0.6 < gone.on_rest.accuracy_after
    [tests] = test.batches(N)
    # The divisor is another one and with it the strength of L2: at n = 30 the same minimum has twice the l2.
    twice = Objective(at.program, replace(at.spec, l2=at.spec.l2 * N / 30))
    fits = NewtonRefits(twice, TensorRows({"x": batch.inputs["x"][30:]}, turned[30:]), test, [0])
    fits.baseline()
    theta = twice.head.to_theta(fits._star.T)
    right = twice.loss.predictions(twice.outputs(theta, at.place(tests).inputs)) == tests.targets
    assert gone.on_rest.accuracy_after == pytest.approx(float(right[3:].double().mean()))
    assert gone.on_rows.accuracy_after == pytest.approx(float(right[:3].double().mean()))


def test_the_groups_with_most_excess_are_reweighted_where_none_are_named(fitted):
    at, rows, test, _ = fitted("binary_logistic")
    question = Question([0], {"site": SITES, "one": ["x"] * N}, reweight_top=2)
    found = group_influence(Problem(at, rows), test, question, refits=refitting(at, rows, test))
    first, second, _ = found.columns["site"]
    want = [(share.group, factor) for share in (first, second) for factor in (0, 2)]
    assert [(one.group, one.factor) for one in found.effects] == want
    alone = Question([0], {"one": ["x"] * N}, reweight_top=2)
    found = group_influence(Problem(at, rows), test, alone, refits=refitting(at, rows, test))
    assert found.effects == ()
    assert "one group" in found.warnings[0]


def test_scores_without_a_unit_foretell_nothing(fitted):
    at, rows, test, _ = fitted("binary_logistic")
    question = Question([0], {"site": SITES}, [Reweighting("site", "a", 0)], method="grad_cos")
    [one] = group_influence(Problem(at, rows), test, question, refits=refitting(at, rows, test)).effects
    assert (one.on_rows.predicted, one.on_rows.corrected) == (None, None)
    assert one.on_rows.measured != 0


def test_a_network_is_trained_by_its_recipe(case):
    one = case("cross_entropy", head=False, weighted=True)
    recipe = Recipe(TrainingSpec("sgd", 0.1, 5, batch_size=10), None)
    sites = ["a"] * 20 + ["b"] * 10
    question = Question([0, 1], {"site": sites}, [Reweighting("site", "b", 0), Reweighting("site", "b", 3)])
    problem = Problem(one.objective, one.rows, damping=5.0)
    choose = refitting(one.objective, one.rows, one.rows, recipe=recipe, seeds=2)
    found = group_influence(problem, one.rows, question, refits=choose)
    removed = retrain(
        one.objective, one.rows, one.rows, without=[list(range(20, 30))], rows=[0, 1], recipe=recipe, seeds=2
    )
    assert found.effects[0].on_rows.measured == pytest.approx(removed.changes.mean(), abs=1e-12)
    assert found.effects[0].on_rows.corrected is None
    assert found.effects[1].on_rows.measured != found.effects[0].on_rows.measured
    assert 0 <= found.effects[0].on_rest.accuracy_after <= 1


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (Question([], {"site": SITES}), "at least one test row"),
        (Question([99], {"site": SITES}), "no test row 99"),
        (Question([0], {"site": SITES}, [Reweighting("site", "z", 0)]), "no training row has 'z'.*'a', 'b', 'c'"),
    ],
)
def test_what_cannot_be_asked_is_refused(fitted, question, text):
    at, rows, test, _ = fitted("binary_logistic")
    with pytest.raises(InvalidArgument, match=text):
        group_influence(Problem(at, rows), test, question, refits=refitting(at, rows, test))


def test_without_any_influence_a_warning_says_so(fitted):
    at, _, test, _ = fitted("binary_logistic")
    rows = TensorRows({"x": torch.randn(4, D, dtype=torch.float64)}, torch.tensor([0, 1, 0, 1]), torch.zeros(4))
    found = group_influence(Problem(at, rows), test, Question([0], {"site": list("aabb")}))
    assert "no training row has any influence" in found.warnings[0]
