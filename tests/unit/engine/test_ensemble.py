"""Scores averaged over checkpoints, and an objective at other weights."""

import numpy as np
import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.methods import Checkpoint
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


def test_at_other_weights_only_the_weights_differ(case):
    c = case("cross_entropy")
    moved = c.objective.at({name: 2 * value for name, value in c.objective.program.parameters.items()})
    torch.testing.assert_close(moved.theta, 2 * c.objective.theta)
    batch = c.objective.place(next(c.rows.batches(5)))
    torch.testing.assert_close(
        moved.outputs(moved.theta, batch.inputs), c.objective.outputs(2 * c.objective.theta, batch.inputs)
    )
    torch.testing.assert_close(moved.head.evaluate(batch.inputs)[1], moved.outputs(moved.theta, batch.inputs))
