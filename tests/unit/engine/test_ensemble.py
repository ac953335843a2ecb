"""Scores averaged over checkpoints, and an objective at other weights."""

import numpy as np
import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.methods import REGISTRY, Checkpoint
from undue_service.engine.program import Program
from unit.engine.dense import other_weights


def checkpoints(objective, count):
    return [Checkpoint(parameters, 0.1) for parameters in other_weights(objective, count)]


@pytest.mark.parametrize("method", ["exact", "grad_dot", "grad_cos"])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("aggregate", [None, "mean"])
def test_an_ensemble_is_the_mean_of_its_members(case, method, head, aggregate):
    c = case("cross_entropy", head, n=20)
    several = checkpoints(c.objective, 3)
    settings = {"method": method, "damping": 0.5, "aggregate": aggregate, "top_k": None}
    found = influence(c.objective, c.rows, c.rows, ensemble=True, checkpoints=several, **settings)
    each = [influence(c.objective.at(one.parameters), c.rows, c.rows, **settings).scores for one in several]
    np.testing.assert_allclose(found.scores, np.mean(each, axis=0), rtol=1e-5, atol=1e-9)
    assert "averaged over" in found.diagnostics.estimand
    small = influence(
        c.objective,
        c.rows,
        c.rows,
        ensemble=True,
        checkpoints=several,
        memory_bytes=40_000,
        **(settings | {"top_k": 3}),
    )
    assert (small.helpful_rows == found.helpful_rows[:, :3]).all()


def test_self_influence_of_an_ensemble_is_the_mean(case):
    c = case("cross_entropy", n=20)
    several = checkpoints(c.objective, 2)
    found = self_influence(c.objective, c.rows, ensemble=True, checkpoints=several, damping=0.5)
    each = np.zeros(20)
    for one in several:
        own = self_influence(c.objective.at(one.parameters), c.rows, damping=0.5)
        each[own.train.rows] += own.scores / 2
    np.testing.assert_allclose(found.scores, np.sort(each)[::-1], rtol=1e-10)


def test_the_same_weights_average_to_themselves(case):
    c = case("binary_logistic", False)
    same = [Checkpoint(c.objective.program.parameters, 1.0)] * 3
    alone = influence(c.objective, c.rows, c.rows, top_k=None, damping=1.0)
    together = influence(c.objective, c.rows, c.rows, top_k=None, damping=1.0, ensemble=True, checkpoints=same)
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-6)
    assert together.diagnostics.damping == alone.diagnostics.damping


def test_without_checkpoints_there_is_nothing_to_average(case):
    c = case("cross_entropy")
    with pytest.raises(FailedPrecondition) as caught:
        influence(c.objective, c.rows, c.rows, ensemble=True)
    assert caught.value.reason == Reason.CHECKPOINTS_MISSING


def test_weights_that_do_not_fit_are_named(case):
    c = case("cross_entropy", False)
    good = dict(c.objective.program.parameters)
    name = next(iter(good))
    for wrong in ({}, {k: v for k, v in good.items() if k != name}, good | {name: good[name].reshape(-1)}):
        with pytest.raises(InvalidArgument, match=name) as caught:
            c.objective.at(wrong)
        assert caught.value.reason == Reason.WEIGHTS_MISMATCH


def test_weights_of_another_kind_of_number_are_named(case):
    c = case("cross_entropy", False)
    good = dict(c.objective.program.parameters)
    name = next(iter(good))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(InvalidArgument, match=str(dtype).removeprefix("torch.")) as caught:
            c.objective.at(good | {name: good[name].to(dtype)})
        assert caught.value.metadata == {"parameter": name}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rounded = good[name].to(dtype)
        torch.testing.assert_close(
            c.objective.at(good | {name: rounded}).program.parameters[name], rounded.to(good[name].dtype)
        )


class Tied(torch.nn.Module):
    """Two layers of the same weights behind a normalisation."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.first, self.second = (torch.nn.Linear(3, 3, bias=False) for _ in range(2))
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(self.norm(x))))


@pytest.fixture
def tied():
    """The program of such a network, and its state."""
    torch.manual_seed(0)
    net = Tied().eval()
    net.norm.running_mean.copy_(torch.randn(3))
    program = Program.from_exported(
        torch.export.export(net, (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    )
    return program, {name: tensor.detach() for name, tensor in net.state_dict().items()}


def test_weights_that_share_memory_are_given_once_or_alike(tied):
    program, state = tied
    same = state["first.weight"] + 1
    for given in (
        state | {"first.weight": same, "second.weight": same.clone()},
        {name: same if name == "second.weight" else value for name, value in state.items() if name != "first.weight"},
    ):
        found = program.at(given).forward({}, {"x": torch.ones(2, 3)})
        assert (found != program.forward({}, {"x": torch.ones(2, 3)})).all()
    for other in (same + 1, same.double(), same[:2]):
        with pytest.raises(InvalidArgument, match=r"'first\.weight' and 'second\.weight' are the same") as caught:
            program.at(state | {"first.weight": same, "second.weight": other})
        assert caught.value.reason == Reason.WEIGHTS_MISMATCH


@pytest.mark.parametrize("name", ["norm.running_mean", "norm.running_var"])
def test_running_statistics_belong_to_the_weights(tied, name):
    program, state = tied
    moved = program.at(state | {name: state[name] + 1})
    torch.testing.assert_close(moved.constants[name], state[name] + 1)
    assert (moved.forward({}, {"x": torch.ones(2, 3)}) != program.forward({}, {"x": torch.ones(2, 3)})).all()
    for wrong in ({k: v for k, v in state.items() if k != name}, state | {name: torch.ones(4)}):
        with pytest.raises(InvalidArgument, match=name) as caught:
            program.at(wrong)
        assert (caught.value.reason, caught.value.metadata) == (Reason.WEIGHTS_MISMATCH, {"parameter": name})
    core = program.at(state)
    torch.testing.assert_close(core.forward({}, {"x": torch.ones(2, 3)}), program.forward({}, {"x": torch.ones(2, 3)}))


def test_at_other_weights_only_the_weights_differ(case):
    c = case("cross_entropy")
    moved = c.objective.at({name: 2 * value for name, value in c.objective.program.parameters.items()})
    torch.testing.assert_close(moved.theta, 2 * c.objective.theta)
    batch = c.objective.place(next(c.rows.batches(5)))
    torch.testing.assert_close(
        moved.outputs(moved.theta, batch.inputs), c.objective.outputs(2 * c.objective.theta, batch.inputs)
    )
    torch.testing.assert_close(moved.head.evaluate(batch.inputs)[1], moved.outputs(moved.theta, batch.inputs))


@pytest.mark.parametrize("method", ["grad_dot", "gauss_newton", "representation", "tracin", "trak"])
@pytest.mark.parametrize("aggregate", [None, "mean"])
def test_a_row_without_a_target_is_explained_everywhere_by_the_registered_label(case, method, aggregate):
    c = case("cross_entropy", False, n=20)
    moved = [
        {name: -2 * value for name, value in c.objective.program.parameters.items()},
        dict(c.objective.program.parameters),
    ]
    several = [Checkpoint(parameters, 0.1) for parameters in moved]
    batch = c.objective.place(next(c.rows.batches(20)))
    labels, others = (
        at.loss.predictions(at.outputs(at.theta, batch.inputs)) for at in (c.objective, c.objective.at(moved[0]))
    )
    assert (labels != others).any()
    ensemble = not REGISTRY[method].spec.uses_checkpoints
    settings = {"method": method, "checkpoints": several, "ensemble": ensemble, "aggregate": aggregate, "top_k": None}
    found = influence(c.objective, c.rows, TensorRows({"x": c.x}), **settings)
    named = influence(c.objective, c.rows, TensorRows({"x": c.x}, labels), **settings)
    np.testing.assert_array_equal(found.scores, named.scores)
    assert found.test.targets.tolist() == labels.tolist()
