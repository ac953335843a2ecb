"""The training-set attack on small models: what it does, that nothing else changes it, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.perturbation import AttackSettings
from undue_service.domain.specs import ObjectiveSpec, TrainingSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.perturbation.attack import attack
from undue_service.engine.perturbation.result import Share
from undue_service.engine.perturbation.state import AttackState
from undue_service.engine.program import Program
from undue_service.engine.retraining.training import Recipe

L2 = 0.02
SETTINGS = AttackSettings(
    candidates=2, step=10, iterations=12, bound="linf", radius=60, level=1 / 255, minimum=(0,), maximum=(1,)
)


def noise(n, seed):
    """Rows in [0, 1] on 8-bit levels, two classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.5 + 0.1 * torch.randn(n, 6, generator=generator) + 0.06 * (2 * y[:, None] - 1)
    return (x.clamp(0, 1) * 255).round() / 255, y


@pytest.fixture(scope="module")
def model(export):
    torch.manual_seed(0)
    below = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    x, y = noise(40, 1)
    test = noise(30, 2)
    programs = {}

    def make(outputs=1, dtype=torch.float32, parameters=("1.*",), l2=L2):
        if outputs not in programs:
            programs[outputs] = export(nn.Sequential(below, nn.Linear(8, outputs)), x[:3])
        program = Program.from_exported(programs[outputs]).to("cpu", dtype)
        loss = "binary_logistic" if outputs == 1 else "cross_entropy"
        return Objective(program, ObjectiveSpec(loss, l2), parameters), rows(x, y), rows(*test)

    return make


def rows(x, y):
    return TensorRows({"x": x}, y)


def same(a, b):
    """Whether two results say the same, bit for bit."""
    assert torch.equal(a.inputs, b.inputs)
    for one, other in zip(a.attacks, b.attacks, strict=True):
        assert np.array_equal(one.rows, other.rows)
        for left, right in ((one.attack, other.attack), (one.control, other.control)):
            if left is None:
                assert right is None
                continue
            assert left.iterations == right.iterations
            assert np.array_equal(left.flipped, right.flipped)
            assert np.array_equal(left.costs, right.costs)
            assert left.test_loss == right.test_loss
    assert np.array_equal(a.flips, b.flips)
    assert a.attacked == b.attacked
    assert a.controlled == b.controlled


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_attack_flips_what_the_control_does_not(model, outputs, dtype):
    objective, train, test = model(outputs, dtype)
    seen = []
    found = attack(objective, train, test, [[t] for t in range(30)], SETTINGS, on_iteration=seen.append)
    wrong = sum(int(one.already_wrong.sum()) for one in found.attacks)
    assert found.attacked.of == 30 - wrong > 15
    assert found.attacked.flips > 2 * found.controlled.flips
    assert found.attacked.low < found.attacked.share < found.attacked.high
    assert sum(int(one.attack.confirmed.sum()) for one in found.attacks) == found.attacked.flips
    assert seen[-1].iteration == sum(len(part.costs) - 1 for part in (seen[-1].attack, seen[-1].control))
    assert list(found.flips) == sorted(found.flips)
    assert found.costs[-1] > found.costs[0]
    half = 60 / 255 + 1e-6
    assert float((found.inputs - found.originals).abs().max()) <= half
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1
    for k, one in enumerate(found.attacks):
        if one.already_wrong.all():
            assert len(one.rows) == 0
            assert one.attack.iterations == 0
            assert not one.attack.flipped.any()
            continue
        # Else nothing could move any further, or the steps were spent.
        assert one.attack.flipped.all() or one.attack.iterations >= 6
        moved = (found.inputs[k].double() - found.originals[k].double()) * 255
        np.testing.assert_allclose(one.linf, moved.abs().amax(dim=1), rtol=1e-6)
        np.testing.assert_allclose(one.l2, moved.norm(dim=1), rtol=1e-6)
    assert found.diagnostics.method == "perturb"
    assert found.diagnostics.dtype == str(dtype)[6:]


def test_a_flip_is_what_another_optimiser_finds(model):
    objective, train, test = model(1, torch.float64)
    found = attack(objective, train, test, [[t] for t in range(10)], replace(SETTINGS, control=False))
    batch = objective.place(next(train.batches(100)))
    tests = objective.place(next(test.batches(100)))
    checked = 0
    for k, one in enumerate(found.attacks):
        for rows_, inputs, outcome in (([], None, None), (one.rows, found.inputs[k], one.attack)):
            x = next(iter(batch.inputs.values())).clone()
            if inputs is not None and len(rows_):
                x[rows_] = inputs
            theta = torch.zeros_like(objective.theta)
            for _ in range(30):
                moved = replace(batch, inputs=dict.fromkeys(batch.inputs, x))

                def risk(at, moved=moved):
                    return objective.losses(at, moved).mean() + 0.5 * (objective.l2 * at.square()).sum()

                theta = theta - torch.linalg.solve(torch.func.hessian(risk)(theta), torch.func.grad(risk)(theta))
            labels = objective.loss.predictions(objective.outputs(theta, tests.inputs))
            wrong = bool(labels[k] != tests.targets[k])
            if outcome is None:
                assert wrong == one.already_wrong[0]
            elif len(rows_):
                checked += 1
                assert wrong == outcome.flipped[0] == outcome.confirmed[0]
                losses = objective.losses(theta, tests)
                np.testing.assert_allclose(outcome.costs[-1], float(losses[k]), rtol=1e-5)
                np.testing.assert_allclose(outcome.test_loss, float(losses.mean()), rtol=1e-5)
    assert checked >= 3
    assert found.attacked.flips > 0


def test_many_attacks_at_once_are_as_many_single_ones(model):
    objective, train, test = model(1, torch.float64)
    targets = [[3], [4, 7], [9, 10, 11], [12]]
    settings = replace(SETTINGS, control=False, iterations=6)
    together = attack(objective, train, test, targets, settings)
    for k, some in enumerate(targets):
        alone = attack(objective, train, test, [some], settings)
        assert np.array_equal(alone.attacks[0].rows, together.attacks[k].rows)
        torch.testing.assert_close(alone.inputs[0], together.inputs[k], rtol=0, atol=1e-9)
        np.testing.assert_allclose(alone.attacks[0].attack.costs, together.attacks[k].attack.costs, rtol=1e-6)
        assert np.array_equal(alone.attacks[0].attack.flipped, together.attacks[k].attack.flipped)


@pytest.mark.parametrize("memory", [2**30, 2**17], ids=["graphs kept", "graphs made again"])
def test_an_interrupted_attack_goes_on_bit_for_bit(model, memory):
    objective, train, test = model()
    targets = [[t] for t in range(10)]
    states = []
    settings = replace(SETTINGS, iterations=6)
    whole = attack(objective, train, test, targets, settings, on_iteration=states.append, memory_bytes=memory)
    assert any(state.control is not None for state in states)
    assert states[0].control is None
    for state in (states[0], states[2], states[-2]):
        copy = AttackState.of({name: tensor.clone() for name, tensor in state.tensors().items()})
        later = []
        again = attack(
            objective, train, test, targets, settings, state=copy, on_iteration=later.append, memory_bytes=memory
        )
        same(again, whole)
        assert len(later) < len(states)


def test_the_bounds_hold_eight_bits_and_balls(model):
    objective, train, test = model()
    targets = [[t] for t in range(6)]
    eight = attack(objective, train, test, targets, AttackSettings(step=0.1, iterations=8, candidates=3, control=False))
    assert torch.equal((eight.inputs * 255).round(), (eight.originals * 255).round())
    assert 0.3 < max(float(one.linf.max()) for one in eight.attacks if len(one.rows)) <= 0.4991
    ball = replace(SETTINGS, bound="l2", radius=30, step=8, iterations=8, control=False, fixed=(0, 5))
    balls = attack(objective, train, test, targets, ball)
    lengths = [float(one.l2.max()) for one in balls.attacks if len(one.rows)]
    assert 25 < max(lengths) <= 30 * (1 + 1e-5)
    assert torch.equal(balls.inputs[:, :, [0, 5]], balls.originals[:, :, [0, 5]])


def test_a_model_that_is_no_linear_head_is_trained_by_its_recipe(model):
    objective, train, test = model(2, torch.float64, parameters=(), l2=1e-3)
    recipe = Recipe(TrainingSpec(optimizer="sgd", lr=0.5, epochs=40, batch_size=None, seed=0))
    settings = replace(SETTINGS, iterations=4, step=20, candidates=3, damping=0.01)
    states = []
    found = attack(objective, train, test, [[0], [1]], settings, recipe=recipe, on_iteration=states.append)
    assert found.costs[-1] > found.costs[0]
    for one in found.attacks:
        assert one.attack.confirmed is None
        if len(one.rows):
            assert one.attack.costs[-1] - one.attack.costs[0] > 2 * (one.control.costs[-1] - one.control.costs[0])
    assert found.distance > 0
    assert "not confirmed" in found.diagnostics.warnings[-1]
    again = attack(objective, train, test, [[0], [1]], settings, recipe=recipe, state=states[1])
    same(again, found)
    with pytest.raises(FailedPrecondition) as raised:
        attack(objective, train, test, [[0]], settings)
    assert raised.value.reason is Reason.RECIPE_MISSING
    with pytest.raises(InvalidArgument, match="prefilter"):
        attack(objective, train, test, [[0]], replace(settings, prefilter=5), recipe=recipe)


REFUSED = [
    ({"bound": "linf", "radius": 0}, "radius"),
    ({"bound": "l2", "radius": None}, "radius"),
    ({"bound": "linf", "radius": float("nan")}, "radius"),
    ({"bound": "same_8bit"}, "radius: same_8bit"),
    ({"bound": "cube"}, "bound"),
    ({"step": 0}, "step"),
    ({"level": -1}, "level"),
    ({"candidates": 0}, "candidates"),
    ({"candidates": 41}, "41 training rows cannot be perturbed: there are 40"),
    ({"candidate_rows": (1, 1)}, "candidate_rows"),
    ({"candidate_rows": (1, 40), "candidates": 1}, "no training row 40"),
    ({"candidate_rows": (1, 2, 3)}, "candidates: 3 rows are named"),
    ({"prefilter": 1}, "prefilter"),
    ({"iterations": 0}, "iterations"),
    ({"fixed": (6,)}, "no column 6"),
    ({"fixed": tuple(range(6))}, "every column"),
    ({"minimum": (0.0, 0.0)}, "minimum"),
    ({"minimum": (0.9,), "maximum": (0.8,)}, "maximum"),
    ({"minimum": (0.9,)}, "outside of the range"),
    ({"input": "nothing"}, "no input 'nothing'"),
    ({"bound": "same_8bit", "radius": None, "level": 1 / 100}, "8-bit level"),
    ({"damping": -1}, "damping"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:20] for _, message in REFUSED])
def test_what_cannot_be_is_refused(model, changes, message):
    objective, train, test = model()
    with pytest.raises(InvalidArgument, match=message) as raised:
        attack(objective, train, test, [[0], [1]], replace(SETTINGS, **changes))
    assert raised.value.reason in (Reason.INVALID_FIELD, Reason.ROW_OUT_OF_RANGE)


def test_targets_that_cannot_be_are_refused(model, case):
    objective, train, test = model()
    for targets in ([], [[]], [[30]], [[-1]]):
        with pytest.raises(InvalidArgument, match="rows"):
            attack(objective, train, test, targets, SETTINGS)
    c = case("squared_error")
    with pytest.raises(InvalidArgument, match="regression"):
        attack(c.objective, c.rows, c.rows, [[0]], SETTINGS)
    with pytest.raises(ResourceExhausted):
        attack(objective, train, test, [[t] for t in range(30)], SETTINGS, memory_bytes=2**10)


def test_targets_that_are_wrong_already_are_left_alone(model):
    objective, train, test = model()
    batch = next(test.batches(100))
    other = rows(batch.inputs["x"], 1 - batch.targets)
    right = attack(objective, train, test, [[0, 1, 2, 3, 4, 5]], replace(SETTINGS, control=False))
    turned = attack(objective, train, other, [[0, 1, 2, 3, 4, 5]], replace(SETTINGS, control=False))
    assert np.array_equal(right.attacks[0].already_wrong, ~turned.attacks[0].already_wrong)
    assert right.attacked.of + turned.attacked.of == 6
    assert not (turned.attacks[0].attack.flipped & turned.attacks[0].already_wrong).any()
    own = [t for t in range(6) if turned.attacks[0].already_wrong[t]]
    none = attack(objective, train, other, [[t] for t in own], SETTINGS)
    assert none.attacked == Share(0, 0, 0.0, 1.0)
    assert torch.equal(none.inputs, none.originals)
    assert all(len(one.rows) == 0 and one.attack.iterations == 0 for one in none.attacks)


def test_without_labels_the_prediction_is_what_is_flipped(model):
    objective, train, test = model()
    unlabelled = TensorRows({"x": next(test.batches(100)).inputs["x"]})
    settings = replace(SETTINGS, control=False)
    states = []
    attack(objective, train, test, [[0]], settings, on_iteration=states.append)
    fitted = objective.space.unflatten(states[0].baseline.to(objective.theta.dtype))
    objective = objective.at({**objective.program.parameters, **fitted})
    found = attack(objective, train, unlabelled, [[t] for t in range(10)], settings)
    assert found.distance < 1e-4
    assert not any(one.already_wrong.any() for one in found.attacks)
    assert found.attacked.flips > 0


def test_wilsons_interval():
    share = Share.among(335, 591)
    assert (share.low, share.high) == (pytest.approx(0.5266, abs=1e-3), pytest.approx(0.6063, abs=1e-3))
    assert Share.among(0, 10).low == 0
    assert Share.among(0, 10).high == pytest.approx(0.2775, abs=1e-3)
    assert Share.among(10, 10).high == 1
