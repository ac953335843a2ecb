"""Fidelity on a real network: digits, an MLP trained by Adam, subsets trained anew by its recipe from fresh weights."""

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.specs import ObjectiveSpec, TrainingSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.fidelity import fidelity
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.engine.retraining.initialisation import cold_start
from undue_service.engine.retraining.training import Recipe, train_in_step

torch.set_num_threads(1)

ROWS, TESTS = 300, 40


@pytest.fixture(scope="module")
def trained(digits):
    """An MLP 64-32-10 trained by its recipe; objective, training rows, test rows, recipe."""
    order = np.random.default_rng(0).permutation(len(digits.X_train))[:ROWS]
    train = TensorRows({"x": torch.as_tensor(digits.X_train[order])}, torch.as_tensor(digits.y_train[order]))
    test = TensorRows({"x": torch.as_tensor(digits.X_test[:TESTS])}, torch.as_tensor(digits.y_test[:TESTS]))
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(module, (torch.zeros(3, 64, dtype=torch.float64),), dynamic_shapes=shapes)
    objective = Objective(
        Program.from_exported(exported).to("cpu", torch.float64), ObjectiveSpec("cross_entropy", 1e-3)
    )
    recipe = Recipe(TrainingSpec("adam", 5e-3, epochs=30, batch_size=50, schedule="linear", init="torch", seed=1))
    start, kept = cold_start(objective, recipe, 1), torch.ones(1, ROWS, dtype=torch.bool)
    theta = train_in_step(objective, train, recipe, kept, start=start, seeds=[1])[0]
    module.load_state_dict(objective.space.unflatten(theta))
    exported = torch.export.export(module, (torch.zeros(3, 64, dtype=torch.float64),), dynamic_shapes=shapes)
    return Objective(Program.from_exported(exported), objective.spec), train, test, recipe


def judged(trained, method, settings, sign=1, **arguments):
    objective, train, test, recipe = trained
    scores = influence(objective, train, test, method=method, top_k=None, **arguments).scores
    return fidelity(
        objective,
        train,
        test,
        scores=sign * scores,
        rows=range(TESTS),
        scale="removal" if method == "exact" else "relative",
        settings=settings,
        recipe=recipe,
    ).finding


def test_the_datamodelling_score_of_a_network(trained, capsys):
    settings = FidelitySettings("lds", samples=40, seeds=2)
    found = {
        "exact, λ = 0.1": judged(trained, "exact", settings, damping=0.1),
        "grad_dot": judged(trained, "grad_dot", settings),
    }
    with capsys.disabled():
        for name, one in found.items():
            print(f"\n  {name}: LDS {one.lds}, {one.seconds:.1f} s", end="")
    for one in found.values():
        assert one.lds.low > 0
        assert one.lds.low <= one.lds.value <= one.lds.high
    exact = found["exact, λ = 0.1"]
    assert exact.lds.low > 0.25
    wrong = judged(trained, "exact", settings, sign=-1, damping=0.1)
    assert wrong.lds.high < -0.25


def test_leave_one_out_of_a_network_has_the_right_sign(trained, capsys):
    """From the registered weights by the recipe at a small learning rate: the fine differences are not drowned."""
    objective, train, test, _ = trained
    recipe = Recipe(TrainingSpec("sgd", 0.05, epochs=60, batch_size=None, momentum=0.9, schedule="linear"))
    settings = FidelitySettings("loo", samples=15, strata=3)
    found = judged((objective, train, test, recipe), "exact", settings, damping=0.1)
    with capsys.disabled():
        print(f"\n  leave-one-out: {found.agreement}", end="")
        for one in found.strata:
            print(f"\n    {one.low:.2g}…{one.high:.2g}: {one.agreement.pearson}", end="")
    assert found.agreement.pearson.low > 0
    assert found.strata[-1].agreement.pearson.low > 0.3
