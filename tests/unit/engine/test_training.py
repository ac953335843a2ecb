"""Copies trained in step, against a plain loop of torch.optim over the module that the program was exported from."""

import pytest
import torch
from torch import nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.retraining import training
from undue_service.engine.retraining.training import Recipe, gradient_norms, train_in_step
from unit.engine.torch_twin import SPECS, N, network, plain, spec


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (N,), generator=generator), torch.rand(N, generator=generator, dtype=torch.float64) * 2


@pytest.fixture(scope="module")
def objective(program):
    return Objective(program(network(), torch.randn(3, 4)), ObjectiveSpec("cross_entropy", 0.05, ("*bias",)))


@pytest.mark.parametrize("recipe", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("divisor", ["kept_n", "subset"])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_copy_is_trained_as_torch_would(objective, rows, recipe, divisor, weighted):
    x, y, w = rows
    kept = torch.rand(5, N, generator=torch.Generator().manual_seed(2)) < 0.7
    kept[0] = True
    seeds = [0, 3, 3, 0, 7]
    data = TensorRows({"x": x}, y, w if weighted else None)
    found = train_in_step(objective, data, Recipe(recipe), kept, start=objective.theta, seeds=seeds, divisor=divisor)
    for k, seed in enumerate(seeds):
        twin = plain(network(), x, y, w if weighted else torch.ones_like(w), kept[k], recipe, seed, divisor)
        torch.testing.assert_close(found[k], objective.space.flatten(twin), rtol=1e-9, atol=1e-9)
        assert (found[k] - objective.theta).norm() > 0.05


def test_the_divisors_differ_only_where_rows_are_left_out(objective, rows):
    x, y, _ = rows
    kept = torch.ones(2, N, dtype=torch.bool)
    kept[1, :9] = False
    both = [
        train_in_step(
            objective, TensorRows({"x": x}, y), Recipe(spec()), kept, start=objective.theta, seeds=[0, 0], divisor=name
        )
        for name in ("kept_n", "subset")
    ]
    torch.testing.assert_close(both[0][0], both[1][0])
    assert (both[0][1] - both[1][1]).norm() > 0.01


@pytest.mark.parametrize("divisor", ["kept_n", "subset"])
@pytest.mark.parametrize("memory", [40_000, 2_000, 1], ids=["few copies", "rows in parts", "one of each, read anew"])
def test_who_is_trained_together_changes_nothing(objective, rows, divisor, memory):
    x, y, w = rows
    kept = torch.rand(7, N, generator=torch.Generator().manual_seed(3)) < 0.6
    seeds = [0, 1, 0, 1, 2, 0, 0]
    data, recipe = TensorRows({"x": x}, y, w), Recipe(SPECS["adam, cosine"])
    starts = objective.theta + 0.1 * torch.randn(7, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    together = train_in_step(objective, data, recipe, kept, start=starts, seeds=seeds, divisor=divisor)
    fewer = train_in_step(
        objective, data, recipe, kept, start=starts, seeds=seeds, divisor=divisor, memory_bytes=memory
    )
    torch.testing.assert_close(fewer, together, rtol=1e-8, atol=1e-9)
    for k in range(7):
        alone = train_in_step(
            objective, data, recipe, kept[k : k + 1], start=starts[k], seeds=seeds[k : k + 1], divisor=divisor
        )
        torch.testing.assert_close(alone[0], together[k], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("divisor", ["kept_n", "subset"])
def test_where_memory_runs_out_the_group_is_trained_again_in_halves(objective, rows, divisor, monkeypatch):
    x, y, w = rows
    kept = torch.ones(7, N, dtype=torch.bool)
    arguments = {"start": objective.theta, "seeds": [0] * 7, "divisor": divisor}
    data, recipe = TensorRows({"x": x}, y, w), Recipe(SPECS["adam, cosine"])
    whole = train_in_step(objective, data, recipe, kept, **arguments)
    real, sizes = training._accumulate, []

    def scarce(objective, parameters, batch, shares, gradients):
        sizes.append(shares.numel())
        if shares.numel() > 3:
            raise torch.OutOfMemoryError(f"{shares.numel()} rows")
        real(objective, parameters, batch, shares, gradients)

    monkeypatch.setattr(training, "_accumulate", scarce)
    heard = []
    found = train_in_step(objective, data, recipe, kept, progress=lambda *said: heard.append(said), **arguments)
    torch.testing.assert_close(found, whole, rtol=1e-8, atol=1e-9)
    assert sizes[:4] == [35, 20, 10, 5]  # copies first, then rows
    assert heard[-1] == ("retraining", 105, 105)
    monkeypatch.setattr(training, "_accumulate", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(torch.OutOfMemoryError):
        train_in_step(objective, data, recipe, kept, **arguments)


def test_a_seed_decides_the_order_of_rows_and_nothing_else_does(objective, rows):
    x, y, _ = rows
    kept = torch.ones(3, N, dtype=torch.bool)
    runs = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        data = TensorRows({"x": x}, y)
        runs.append(train_in_step(objective, data, Recipe(spec()), kept, start=objective.theta, seeds=[4, 5, 4]))
    assert torch.equal(*runs)
    assert torch.equal(runs[0][0], runs[0][2])
    assert (runs[0][0] - runs[0][1]).norm() > 1e-3


def test_only_what_is_selected_is_trained(program, rows):
    x, y, w = rows
    module = network()
    objective = Objective(program(module, torch.randn(3, 4)), ObjectiveSpec("cross_entropy", 0.0), ("0.*", "2.bias"))
    assert objective.space.names == ("0.weight", "0.bias", "2.bias")
    module[2].weight.requires_grad_(False)
    kept = torch.ones(1, N, dtype=torch.bool)
    found = train_in_step(objective, TensorRows({"x": x}, y, w), Recipe(spec()), kept, start=objective.theta, seeds=[0])
    twin = plain(module, x, y, w, kept[0], spec(), 0, "kept_n", l2=0.0)
    torch.testing.assert_close(twin["2.weight"], network()[2].weight.detach())
    torch.testing.assert_close(found[0], objective.space.flatten(twin), rtol=1e-9, atol=1e-9)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.qkv, self.norm, self.out = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, ids):
        h = self.table(ids)
        q, k, v = self.qkv(self.norm(h)).chunk(3, dim=-1)
        return self.out((h + nn.functional.scaled_dot_product_attention(q, k, v)).mean(dim=1))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.GroupNorm(2, 4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 3),
    )


@pytest.mark.parametrize("make", [convolutional, Attention], ids=["convolutional", "attention"])
def test_other_layers(program, make):
    torch.manual_seed(5)
    module = make().double().eval()
    x = torch.randint(11, (N, 5)) if make is Attention else torch.randn(N, 2, 6, 6, dtype=torch.float64)
    y = torch.randint(3, (N,))
    objective = Objective(program(module, x[:3]), ObjectiveSpec("cross_entropy", 0.05))
    kept = torch.rand(3, N) < 0.8
    recipe = SPECS["momentum, linear"]
    found = train_in_step(
        objective,
        TensorRows({"x": x}, y),
        Recipe(recipe),
        kept,
        start=objective.theta,
        seeds=[1, 1, 2],
        divisor="subset",
    )
    for k, seed in enumerate([1, 1, 2]):
        twin = plain(module, x, y, torch.ones(N), kept[k], recipe, seed, "subset", excluded="nothing")
        torch.testing.assert_close(found[k], objective.space.flatten(twin), rtol=1e-8, atol=1e-8)


def test_single_precision_is_trained_in_single_precision(objective, rows):
    x, y, _ = rows
    single = Objective(objective.program.to("cpu", torch.float32), objective.spec)
    kept = torch.ones(2, N, dtype=torch.bool)
    fine = train_in_step(objective, TensorRows({"x": x}, y), Recipe(spec()), kept, start=objective.theta, seeds=[0, 1])
    coarse = train_in_step(single, TensorRows({"x": x}, y), Recipe(spec()), kept, start=single.theta, seeds=[0, 1])
    assert coarse.dtype is torch.float32
    torch.testing.assert_close(coarse.double(), fine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divisor", ["kept_n", "subset"])
@pytest.mark.parametrize("memory", [2**30, 1_000])
def test_gradient_norms_are_those_of_the_objective(objective, rows, divisor, memory):
    x, y, w = rows
    kept = torch.rand(3, N, generator=torch.Generator().manual_seed(6)) < 0.6
    thetas = torch.randn(3, objective.space.dim, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    data = TensorRows({"x": x}, y, w)
    batch = objective.place(next(data.batches(N)))
    found = gradient_norms(objective, data, thetas, kept, divisor=divisor, memory_bytes=memory)
    for k in range(3):
        theta = thetas[k].clone().requires_grad_()
        count = N if divisor == "kept_n" else int(kept[k].sum())
        risk = (w * kept[k] * objective.losses(theta, batch)).sum() / count + 0.5 * (objective.l2 * theta**2).sum()
        risk.backward()
        assert float(found[k]) == pytest.approx(float(theta.grad.norm()), rel=1e-9)


def test_progress_counts_steps_of_copies(objective, rows):
    x, y, _ = rows
    heard = []
    kept = torch.ones(4, N, dtype=torch.bool)
    train_in_step(
        objective,
        TensorRows({"x": x}, y),
        Recipe(spec()),
        kept,
        start=objective.theta,
        seeds=[0, 0, 1, 1],
        progress=lambda *said: heard.append(said),
    )
    assert heard[0] == ("retraining", 2, 4 * 15)
    assert heard[-1] == ("retraining", 60, 60)


def test_a_diverged_copy_is_an_error(objective, rows):
    x, y, _ = rows
    kept = torch.ones(1, N, dtype=torch.bool)
    recipe = Recipe(spec(lr=1e200, momentum=0.9, epochs=6))
    with pytest.raises(FailedPrecondition, match="diverged") as error:
        train_in_step(objective, TensorRows({"x": x}, y), recipe, kept, start=objective.theta, seeds=[0])
    assert error.value.reason is Reason.NON_FINITE_RESULT


def test_rows_without_targets_cannot_be_trained_on(objective, rows):
    kept = torch.ones(1, N, dtype=torch.bool)
    with pytest.raises(InvalidArgument) as error:
        train_in_step(objective, TensorRows({"x": rows[0]}), Recipe(spec()), kept, start=objective.theta, seeds=[0])
    assert error.value.reason is Reason.TARGETS_MISSING
