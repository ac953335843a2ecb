"""Retraining by a recipe: what changes when rows are removed, against plain loops over the module itself."""

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.initialisation import cold_start
from undue_service.engine.retraining.retrain import retrain
from undue_service.engine.retraining.training import Recipe
from unit.engine.torch_twin import SPECS, N, network, plain, spec

SETS = [[3], [0, 7, 11], list(range(12, 20))]


@pytest.fixture(scope="module")
def problem(program):
    """Objective, training rows, test rows, and the tensors."""
    generator = torch.Generator().manual_seed(1)
    x, xt = (torch.randn(k, 4, generator=generator, dtype=torch.float64) for k in (N, 6))
    y, yt = (torch.randint(3, (k,), generator=generator) for k in (N, 6))
    objective = Objective(program(network(), torch.randn(3, 4)), ObjectiveSpec("cross_entropy", 0.05, ("*bias",)))
    return objective, TensorRows({"x": x}, y), TensorRows({"x": xt}, yt), (x, y, xt, yt)


def measured(problem, recipe, seed, removed, start=None):
    """Losses of the test rows after training the module without some rows."""
    objective, _, _, (x, y, xt, yt) = problem
    module = network()
    if start is not None:
        module.load_state_dict(objective.space.unflatten(start))
    kept = torch.ones(N, dtype=torch.bool)
    kept[removed] = False
    trained = plain(module, x, y, torch.ones(N, dtype=torch.float64), kept, recipe, seed, "kept_n")
    f = torch.func.functional_call(module, trained, (xt,))
    return nn.functional.cross_entropy(f, yt, reduction="none").detach().numpy(), objective.space.flatten(trained)


@pytest.mark.parametrize("name", ["momentum", "adam, cosine"])
def test_a_change_is_the_difference_of_two_trainings(problem, name):
    objective, train, test, _ = problem
    recipe = SPECS[name]
    found = retrain(objective, train, test, without=SETS, recipe=Recipe(recipe))
    costs, theta = measured(problem, recipe, 0, [])
    np.testing.assert_allclose(found.costs, costs, atol=1e-8)
    for k, removed in enumerate(SETS):
        np.testing.assert_allclose(found.changes[k], measured(problem, recipe, 0, removed)[0] - costs, atol=1e-8)
    assert abs(found.changes).max() > 1e-3
    assert found.distance == pytest.approx(float((theta - objective.theta).norm()), rel=1e-6)
    assert found.iterations.tolist() == [15, 15, 15]
    assert (found.gradient_norms > 0).all()
    d = found.diagnostics
    assert (d.solver, d.solver_status, d.residual) == (recipe.optimizer, "3 epochs", found.gradient_norms.max())
    assert "recipe" in d.estimand
    for said in ("registered weights", "3 epochs in batches of 5", "seed 0", "divisor (1/n fixed)", "dropout off"):
        assert said in found.recipe


def test_seeds_are_averaged_and_each_starts_where_its_baseline_did(problem):
    objective, train, test, _ = problem
    recipe = spec(seed=4, init="torch")
    found = retrain(objective, train, test, without=SETS, recipe=Recipe(recipe), seeds=3)
    starts = [cold_start(objective, Recipe(recipe), seed) for seed in (4, 5, 6)]
    runs = [
        [measured(problem, recipe, 4 + r, removed, start)[0] for removed in [[], *SETS]]
        for r, start in enumerate(starts)
    ]
    costs = np.mean(runs, axis=0)
    np.testing.assert_allclose(found.costs, costs[0], atol=1e-8)
    np.testing.assert_allclose(found.changes, costs[1:] - costs[0], atol=1e-8)
    assert "mean over the seeds 4 to 6" in found.recipe
    assert "drawn as torch draws" in found.recipe
    warm = retrain(objective, train, test, without=SETS, recipe=Recipe(recipe), start="warm", seeds=3)
    assert abs(warm.costs - found.costs).max() > 1e-2
    assert "from the registered weights by" in warm.recipe


def test_a_file_of_weights_is_a_cold_start(problem):
    objective, train, test, _ = problem
    start = objective.theta * 0.5
    recipe = Recipe(spec(), init=objective.space.unflatten(start))
    found = retrain(objective, train, test, without=SETS[:1], recipe=recipe)
    costs, _ = measured(problem, spec(), 0, [], start)
    np.testing.assert_allclose(found.costs, costs, atol=1e-8)
    assert "the recipe's initial weights" in found.recipe


@pytest.mark.parametrize("memory", [20_000, 3_000])
def test_memory_changes_nothing(problem, memory):
    objective, train, test, _ = problem
    whole = retrain(objective, train, test, without=SETS, recipe=Recipe(spec()), seeds=2)
    small = retrain(objective, train, test, without=SETS, recipe=Recipe(spec()), seeds=2, memory_bytes=memory)
    np.testing.assert_allclose(small.changes, whole.changes, atol=1e-10)
    np.testing.assert_allclose(small.gradient_norms, whole.gradient_norms, rtol=1e-8)


def test_a_row_without_weight_changes_nothing(problem):
    objective, _, test, (x, y, _, _) = problem
    weights = torch.ones(N, dtype=torch.float64)
    weights[5] = 0
    found = retrain(objective, TensorRows({"x": x}, y, weights), test, without=[[5], [6]], recipe=Recipe(spec()))
    assert abs(found.changes[0]).max() < 1e-14
    assert abs(found.changes[1]).max() > 1e-5


def test_seeds_that_change_nothing_are_named(problem):
    objective, train, test, _ = problem
    arguments = {"without": SETS[:1], "seeds": 2}
    same = retrain(objective, train, test, recipe=Recipe(spec(batch_size=None)), **arguments)
    assert any("seeds change nothing" in warning for warning in same.diagnostics.warnings)
    for different in (spec(), spec(batch_size=None, init="torch")):
        found = retrain(objective, train, test, recipe=Recipe(different), **arguments)
        assert not any("seeds" in warning for warning in found.diagnostics.warnings)


def test_progress_counts_the_copies(problem):
    objective, train, test, _ = problem
    heard = []
    retrain(objective, train, test, without=SETS, recipe=Recipe(spec()), progress=lambda *said: heard.append(said))
    assert list(dict.fromkeys(stage for stage, _, _ in heard)) == ["stationarity", "retraining"]
    assert heard[-1] == ("retraining", 3, 3)


@pytest.mark.parametrize(
    ("arguments", "kind", "reason", "says"),
    [
        ({"start": "cold"}, FailedPrecondition, Reason.RECIPE_MISSING, "warm"),
        ({"seeds": 0}, InvalidArgument, Reason.INVALID_FIELD, "seeds"),
        ({"tolerance": 1e-3}, InvalidArgument, Reason.INVALID_FIELD, "epochs of its recipe"),
        ({"max_iterations": 5}, InvalidArgument, Reason.INVALID_FIELD, "epochs of its recipe"),
        ({"without": [[0], list(range(N))]}, InvalidArgument, Reason.INVALID_FIELD, r"without\[1\]"),
        ({"recipe": None}, FailedPrecondition, Reason.RECIPE_MISSING, "training="),
    ],
)
def test_what_cannot_be_done_is_refused(problem, arguments, kind, reason, says):
    objective, train, test, _ = problem
    with pytest.raises(kind, match=says) as error:
        retrain(objective, train, test, **({"without": SETS, "recipe": Recipe(spec())} | arguments))
    assert error.value.reason is reason
