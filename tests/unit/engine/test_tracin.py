"""TracIn: what it needs, and whose prediction it explains."""

import numpy as np
import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.methods import Checkpoint
from unit.engine.dense import other_weights


def test_one_checkpoint_of_rate_one_is_grad_dot(case):
    c = case("cross_entropy", False, weighted=True)
    at = [Checkpoint(c.objective.program.parameters, 1.0)]
    settings = {"top_k": None, "aggregate": "mean", "measurement": "margin"}
    found = influence(c.objective, c.rows, c.rows, method="tracin", checkpoints=at, **settings)
    np.testing.assert_allclose(
        found.scores, influence(c.objective, c.rows, c.rows, method="grad_dot", **settings).scores, rtol=1e-6
    )
    assert found.diagnostics.damping_source == "unused"


def test_rates_weigh_the_checkpoints(case):
    c = case("squared_error", False)
    first, second = other_weights(c.objective, 2)

    def own(*checkpoints):
        found = self_influence(c.objective, c.rows, method="tracin", checkpoints=checkpoints)
        return found.scores[np.argsort(found.train.rows)]

    expected = 0.5 * own(Checkpoint(first, 1.0)) + 2 * own(Checkpoint(second, 1.0))
    np.testing.assert_allclose(own(Checkpoint(first, 0.5), Checkpoint(second, 2.0)), expected, rtol=1e-10)


def test_the_label_explained_is_that_of_the_registered_model(case):
    c = case("cross_entropy", False)
    turned = {name: -value for name, value in c.objective.program.parameters.items()}
    labels = c.objective.outputs(c.objective.theta, {"x": c.x, "input": c.x}).argmax(1)
    there = c.objective.at(turned)
    assert (there.outputs(there.theta, {"x": c.x, "input": c.x}).argmax(1) != labels).any()
    settings = {"method": "tracin", "checkpoints": [Checkpoint(turned, 1.0)], "top_k": None}
    for more in ({}, {"aggregate": "mean"}):
        without = influence(c.objective, c.rows, TensorRows({"x": c.x}), **settings, **more)
        labelled = influence(c.objective, c.rows, TensorRows({"x": c.x}, labels), **settings, **more)
        np.testing.assert_array_equal(without.scores, labelled.scores)


def test_a_subset_of_the_parameters(case):
    whole, part = (case("cross_entropy", False, parameters=patterns) for patterns in ((), ("2.*",)))
    at = [Checkpoint(weights, 1.0) for weights in other_weights(whole.objective, 2)]
    found, other = (
        influence(c.objective, c.rows, c.rows, method="tracin", checkpoints=at, top_k=None) for c in (part, whole)
    )
    assert abs(found.scores - other.scores).max() > 1e-3
    theta = torch.cat([at[0].parameters[name].reshape(-1) for name in ("2.weight", "2.bias")])
    torch.testing.assert_close(part.objective.at(at[0].parameters).theta, theta)


def test_without_checkpoints_it_says_what_to_do(case):
    c = case("cross_entropy")
    with pytest.raises(FailedPrecondition, match="grad_dot") as caught:
        influence(c.objective, c.rows, c.rows, method="tracin")
    assert caught.value.reason == Reason.CHECKPOINTS_MISSING
    at = [Checkpoint(c.objective.program.parameters, 1.0)]
    with pytest.raises(InvalidArgument, match="leave ensemble out"):
        influence(c.objective, c.rows, c.rows, method="tracin", checkpoints=at, ensemble=True)
