"""Fidelity with planted truths: where scores are what retraining does, where they are its opposite, and where noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.fidelity import fidelity
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.initialisation import cold_start
from undue_service.engine.retraining.retrain import retrain
from undue_service.engine.retraining.training import Recipe
from unit.engine.torch_twin import N, network, plain, spec

LOO = FidelitySettings("loo", samples=12, strata=3, bootstrap=100)
LDS = FidelitySettings("lds", samples=25, bootstrap=100)
TESTS = np.arange(20)


@pytest.fixture(scope="module")
def quadratic(case):
    """A regression at its minimum, test rows, and `exact` scores, which are leave-one-out itself."""
    c = case("squared_error", n=60)
    star = c.objective.theta
    batch = c.objective.place(next(c.rows.batches(60)))
    theta = star.clone().requires_grad_()
    risk = c.objective.losses(theta, batch).mean() + 0.5 * (c.objective.l2 * theta**2).sum()
    (gradient,) = torch.autograd.grad(risk, theta)
    H = torch.autograd.functional.hessian(
        lambda t: c.objective.losses(t, batch).mean() + 0.5 * (c.objective.l2 * t**2).sum(), star
    )
    parameters = c.objective.space.unflatten(star - torch.linalg.solve(H, gradient))
    objective = Objective(replace(c.objective.program, parameters=parameters), c.objective.spec)
    generator = torch.Generator().manual_seed(8)
    test = TensorRows(
        {"x": torch.randn(20, 4, generator=generator, dtype=torch.float64)},
        torch.randn(20, 2, generator=generator, dtype=torch.float64),
    )
    # The outputs' change is what the scores are exact for; costs are linear in it to first order only.
    scores = influence(objective, c.rows, test, method="exact", damping=0.0, top_k=None).scores
    return objective, c.rows, test, scores


def judged(problem, settings, scores=None, **changes):
    objective, train, test, own = problem
    arguments = {"rows": TESTS, "scale": "removal"} | changes
    return fidelity(objective, train, test, scores=own if scores is None else scores, settings=settings, **arguments)


def test_scores_that_are_the_measured_changes_agree_perfectly(quadratic):
    objective, train, test, _ = quadratic
    truth = retrain(objective, train, test, without=[[i] for i in range(60)]).changes.T
    found = judged(quadratic, LOO, truth)
    for agreement in (found.finding.agreement, *(one.agreement for one in found.finding.strata)):
        for interval, value in ((agreement.pearson, 1), (agreement.spearman, 1), (agreement.slope, 1)):
            assert (interval.value, interval.low, interval.high) == pytest.approx((value,) * 3, abs=1e-9)
    np.testing.assert_allclose(found.measured, found.predicted, atol=1e-10)
    wrong = judged(quadratic, LOO, -truth).finding.agreement
    assert wrong.pearson.value == pytest.approx(-1, abs=1e-9)
    assert wrong.slope.value == pytest.approx(-1, abs=1e-9)
    noise = np.random.default_rng(0).normal(size=truth.shape)
    nothing = judged(quadratic, LOO, noise).finding.agreement
    assert nothing.pearson.low < 0 < nothing.pearson.high
    assert abs(nothing.pearson.value) < 0.3


def test_exact_scores_of_a_regression(quadratic):
    found = judged(quadratic, LOO)
    assert found.finding.agreement.pearson.value > 0.98
    assert found.finding.agreement.slope.value == pytest.approx(1, abs=0.1)
    lds = judged(quadratic, LDS)
    assert lds.finding.lds.value > 0.8
    assert lds.finding.lds == lds.finding.agreement.spearman
    assert 0.7 < lds.finding.agreement.slope.value < 1.6
    wrong = judged(quadratic, LDS, -quadratic[3]).finding
    assert wrong.lds.value == pytest.approx(-lds.finding.lds.value, abs=1e-9)
    assert wrong.agreement.pearson.value == pytest.approx(-lds.finding.agreement.pearson.value, abs=1e-9)


def test_what_is_measured_is_retraining(quadratic):
    objective, train, test, scores = quadratic
    found = judged(quadratic, LOO)
    again = retrain(objective, train, test, without=found.without)
    np.testing.assert_allclose(found.measured, again.changes, atol=1e-12)
    np.testing.assert_allclose(found.predicted, scores[:, [row for (row,) in found.without]].T)
    assert found.subsets.shape == (0, 0)
    assert "1/n kept" in found.finding.recipe


def test_a_subset_is_fitted_to_the_minimum_of_its_mean(quadratic):
    objective, train, test, scores = quadratic
    found = judged(quadratic, LDS)
    assert found.subsets.shape == (25, 30)
    batch, tests = (objective.place(next(rows.batches(100))) for rows in (train, test))
    x = torch.cat([*batch.inputs.values(), torch.ones(60, 1, dtype=torch.float64)], 1)
    xt = torch.cat([*tests.inputs.values(), torch.ones(20, 1, dtype=torch.float64)], 1)
    for k, rows in enumerate(found.subsets):
        assert (np.diff(rows) > 0).all()
        own = x[rows]
        theta = torch.linalg.solve(
            own.T @ own / 30 + 0.1 * torch.eye(5, dtype=torch.float64), own.T @ batch.targets[rows] / 30
        )
        costs = 0.5 * (xt @ theta - tests.targets).square().sum(1)
        np.testing.assert_allclose(found.measured[k], costs, atol=1e-9)
        np.testing.assert_allclose(found.predicted[k], -2 * scores[:, rows].sum(1), rtol=1e-5, atol=1e-7)
    assert len({tuple(rows) for rows in found.subsets}) == 25
    assert "|S|" in found.finding.recipe


def test_strata_cover_the_range_of_the_scores(quadratic):
    found = judged(quadratic, LOO)
    size = abs(quadratic[3]).mean(axis=0)
    assert [one.low <= one.high for one in found.finding.strata] == [True] * 3
    assert found.finding.strata[0].low == pytest.approx(size.min())
    assert found.finding.strata[-1].high == pytest.approx(size.max())
    for below, above in zip(found.finding.strata, found.finding.strata[1:], strict=False):
        assert below.high <= above.low
    assert np.bincount(found.stratum + 1).tolist() == [12, 4, 4, 4]
    for (row,), k in zip(found.without, found.stratum, strict=True):
        if k >= 0:
            assert found.finding.strata[k].low <= size[row] * (1 + 1e-6)
            assert size[row] <= found.finding.strata[k].high * (1 + 1e-6)
    assert [one.agreement.retrainings for one in found.finding.strata] == [4, 4, 4]
    assert found.finding.agreement.retrainings == 12


def test_a_seed_decides_everything(quadratic):
    a, b, c = (judged(quadratic, replace(LOO, seed=seed)) for seed in (3, 3, 4))
    assert a.without == b.without
    assert replace(a.finding, seconds=0) == replace(b.finding, seconds=0)
    assert a.without != c.without
    d, e = (judged(quadratic, replace(LDS, seed=seed)) for seed in (3, 4))
    assert (d.subsets != e.subsets).any()


def test_some_test_rows(quadratic):
    few = np.array([7, 2])
    found = judged(quadratic, LOO, quadratic[3][few], rows=few)
    whole = judged(quadratic, LOO)
    assert found.rows.tolist() == [7, 2]
    common = {row: k for k, row in enumerate(whole.without)}
    for k, row in enumerate(found.without):
        if row in common:
            np.testing.assert_allclose(found.measured[k], whole.measured[common[row]][few], atol=1e-10)
    assert any("2 test rows" in warning for warning in found.finding.warnings)
    assert not any("test rows" in warning for warning in whole.finding.warnings)


def test_warnings(quadratic):
    def said(settings, *, scores=None, **changes):
        return " ".join(judged(quadratic, settings, scores, **changes).finding.warnings)

    assert "tell little" not in said(LOO)
    assert "5 retrainings tell little" in said(replace(LOO, samples=5))
    assert "only 60 training rows" in said(replace(LOO, samples=100))
    assert "predicted changes are all the same" in said(LOO, scores=np.ones((20, 60)))
    assert "no unit" in said(LOO, scale="relative")
    assert "underestimates" in said(LDS)
    assert "underestimates" not in said(LDS, scale="relative")
    assert "no effect" in said(replace(LOO, seeds=2))


@pytest.fixture(scope="module")
def net(program):
    generator = torch.Generator().manual_seed(1)
    x, xt = (torch.randn(k, 4, generator=generator, dtype=torch.float64) for k in (N, 20))
    y, yt = (torch.randint(3, (k,), generator=generator) for k in (N, 20))
    objective = Objective(program(network(), torch.randn(3, 4)), ObjectiveSpec("cross_entropy", 0.05, ("*bias",)))
    scores = np.random.default_rng(0).normal(size=(20, N))
    return objective, TensorRows({"x": x}, y), TensorRows({"x": xt}, yt), scores, (x, y, xt, yt)


def test_a_network_is_trained_by_its_recipe_on_each_subset(net):
    objective, *_, (x, y, xt, yt) = net
    recipe = Recipe(spec(init="torch", seed=2))
    found = judged(net[:4], replace(LDS, samples=4, seeds=2, share=0.6), recipe=recipe)
    assert found.subsets.shape == (4, 14)
    ones = torch.ones(N, dtype=torch.float64)
    for k, rows in enumerate(found.subsets):
        kept = torch.zeros(N, dtype=torch.bool)
        kept[rows] = True
        costs = []
        for seed in (2, 3):
            module = network()
            module.load_state_dict(objective.space.unflatten(cold_start(objective, recipe, seed)))
            trained = plain(module, x, y, ones, kept, recipe.spec, seed, "subset")
            f = torch.func.functional_call(module, trained, (xt,))
            costs.append(torch.nn.functional.cross_entropy(f, yt, reduction="none").detach().numpy())
        np.testing.assert_allclose(found.measured[k], np.mean(costs, axis=0), atol=1e-8)
    assert "1/|S|" in found.finding.recipe
    assert not any("have seen all rows" in warning for warning in found.finding.warnings)
    warm = judged(net[:4], replace(LDS, samples=4, start="warm"), recipe=recipe)
    assert any("have seen all rows" in warning for warning in warm.finding.warnings)


def test_leave_one_out_of_a_network(net):
    objective, train, test, *_ = net
    recipe = Recipe(spec(momentum=0.9))
    found = judged(net[:4], LOO, recipe=recipe)
    again = retrain(objective, train, test, without=found.without, recipe=recipe)
    np.testing.assert_allclose(found.measured, again.changes, atol=1e-10)
    assert "1/n fixed" in found.finding.recipe


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (replace(LOO, samples=0), "samples"),
        (replace(LOO, strata=0), "strata"),
        (replace(LDS, share=1.0), "share"),
        (replace(LDS, share=0.0), "share"),
        (replace(LOO, seeds=0), "seeds"),
        (replace(LOO, bootstrap=0), "bootstrap"),
    ],
)
def test_settings_that_cannot_be(quadratic, settings, field):
    with pytest.raises(InvalidArgument) as error:
        judged(quadratic, settings)
    assert error.value.violations[0].field == field


def test_refusals(quadratic, net):
    with pytest.raises(FailedPrecondition) as error:
        judged(net[:4], LOO)
    assert error.value.reason is Reason.RECIPE_MISSING
    with pytest.raises(ResourceExhausted, match="fewer test rows"):
        judged(quadratic, LOO, memory_bytes=1000)
    with pytest.raises(ValueError, match="shape"):
        judged(quadratic, LOO, quadratic[3][:, :5])
