"""Cold starts: what torch's own layers would draw, in distribution; what cannot be told is refused by name."""

import math

import pytest
import torch
from torch import nn

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.specs import ObjectiveSpec, TrainingSpec
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.initialisation import cold_start
from undue_service.engine.retraining.training import Recipe


def recipe(init="torch", weights=None):
    return Recipe(TrainingSpec("sgd", 0.1, 1, init=init), weights)


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 12, padding_idx=3)
        self.conv = nn.Conv1d(12, 30, 3, groups=2, padding=1)
        self.norm, self.batch, self.group = nn.LayerNorm(30), nn.BatchNorm1d(30), nn.GroupNorm(3, 30)
        self.prelu, self.out = nn.PReLU(30), nn.Linear(30, 40, bias=False)
        self.shift, self.last = nn.Parameter(torch.zeros(40)), nn.Linear(40, 3)

    def forward(self, ids):
        h = self.conv(self.table(ids).transpose(1, 2))
        h = self.prelu(self.group(self.batch(h))).transpose(1, 2)
        return self.last(self.out(self.norm(h).mean(dim=1)) + self.shift)


class Transposed(nn.Module):
    """As exporters write it: x @ W with W (in, out), and addmm."""

    def __init__(self):
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.zeros(9, 200)), nn.Parameter(torch.zeros(200))
        self.second, self.shift = nn.Parameter(torch.zeros(3, 200)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.addmm(self.shift, torch.relu(x @ self.first + self.bias), self.second.t())


def objective(program, module, x, parameters=()):
    return Objective(program(module.eval(), x), ObjectiveSpec("cross_entropy"), parameters)


def check_uniform(values, bound):
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.7 * bound
    if values.numel() > 100:
        assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
        assert abs(float(values.mean())) < 0.2 * bound


def test_each_layer_is_drawn_as_torch_draws_it(program):
    torch.manual_seed(0)
    o = objective(program, Everything(), torch.randint(50, (3, 7)))
    found = o.space.unflatten(cold_start(o, recipe(), seed=5))
    fresh = dict(Everything().double().named_parameters())
    for name, bound in {
        "conv.weight": (6 * 3) ** -0.5,
        "conv.bias": (6 * 3) ** -0.5,
        "out.weight": 30**-0.5,
        "shift": 30**-0.5,
        "last.weight": 40**-0.5,
        "last.bias": 40**-0.5,
    }.items():
        check_uniform(found[name], bound)
        if name != "shift" and fresh[name].numel() > 10:
            check_uniform(fresh[name].detach(), bound)
    for name in ("norm", "batch", "group", "prelu"):
        for part in ("weight", "bias")[: 1 if name == "prelu" else 2]:
            assert torch.equal(found[f"{name}.{part}"], fresh[f"{name}.{part}"])
    assert (found["table.weight"][3] == 0).all()
    assert float(found["table.weight"][[0, 1, 2, *range(4, 50)]].std()) == pytest.approx(1, rel=0.1)


def test_weights_that_are_stored_the_other_way_round(program):
    o = objective(program, Transposed(), torch.randn(3, 9))
    found = o.space.unflatten(cold_start(o, recipe(), seed=0))
    for name, fan_in in {"first": 9, "bias": 9, "second": 200, "shift": 200}.items():
        assert float(found[name].abs().max()) <= fan_in**-0.5
    check_uniform(found["first"], 1 / 3)
    check_uniform(found["bias"], 1 / 3)
    check_uniform(found["second"], 200**-0.5)


def test_a_seed_is_a_start(program):
    o = objective(program, Everything(), torch.randint(50, (3, 7)))
    first = cold_start(o, recipe(), seed=1)
    torch.rand(7)
    assert torch.equal(first, cold_start(o, recipe(), seed=1))
    assert (first - cold_start(o, recipe(), seed=2)).norm() > 1


def test_parameters_that_are_not_selected_do_not_matter(program):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.strange, self.last = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(x * self.strange)

    x = torch.randn(3, 4)
    with pytest.raises(FailedPrecondition, match="'strange'") as error:
        cold_start(objective(program, Odd(), x), recipe(), seed=0)
    assert error.value.reason is Reason.RETRAIN_UNSUPPORTED
    assert error.value.metadata == {"parameter": "strange"}
    o = objective(program, Odd(), x, ("last.*",))
    assert len(cold_start(o, recipe(), seed=0)) == 15


def test_a_weight_that_is_two_things_is_refused(program):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 5)

        def forward(self, ids):
            return nn.functional.linear(self.table(ids).mean(dim=1), self.table.weight)

    with pytest.raises(FailedPrecondition, match="several ways") as error:
        cold_start(objective(program, Tied(), torch.randint(5, (3, 2))), recipe(), seed=0)
    assert error.value.reason is Reason.RETRAIN_UNSUPPORTED


def test_a_layer_used_twice_is_one(program):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(torch.tanh(self.inner(x)))

    o = objective(program, Twice(), torch.randn(3, 4))
    check_uniform(cold_start(o, recipe(), seed=0), 0.5)


def test_a_file_of_weights(program):
    module = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3))
    o = objective(program, module, torch.randn(3, 4))
    weights = {name: torch.randn(tensor.shape) for name, tensor in module.named_parameters()}
    found = cold_start(o, recipe(None, weights | {"other": torch.ones(3)}), seed=9)
    assert torch.equal(found, o.space.flatten(weights).double())
    for broken, says in (
        ({name: value for name, value in weights.items() if name != "2.bias"}, "lacks it"),
        (weights | {"2.bias": torch.ones(4)}, r"shape \(4,\)"),
    ):
        with pytest.raises(FailedPrecondition, match=says) as error:
            cold_start(o, recipe(None, broken), seed=0)
        assert error.value.reason is Reason.WEIGHTS_MISMATCH
        assert error.value.metadata == {"parameter": "2.bias"}


def test_no_initialiser_is_no_cold_start(program):
    o = objective(program, nn.Sequential(nn.Linear(4, 3)), torch.randn(3, 4))
    with pytest.raises(FailedPrecondition, match="warm") as error:
        cold_start(o, recipe(None), seed=0)
    assert error.value.reason is Reason.RECIPE_MISSING
