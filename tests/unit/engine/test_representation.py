"""Representation similarity: which layer is read, what the sign says, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.methods import REGISTRY, Problem
from undue_service.engine.methods.representation import last_layer
from undue_service.engine.objective import Objective


class Deep(nn.Module):
    """Layers without a nonlinearity between: every one of them is linear in the outputs."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(1, 2, 3)
        self.first = nn.Linear(8, 5)
        self.last = nn.Parameter(torch.randn(5, 3))
        self.unused_bias = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.first(torch.relu(self.convolution(x[:, None])).flatten(1)) @ self.last + self.unused_bias


def test_the_layer_is_the_last_one_whatever_is_selected(program, rng):
    torch.manual_seed(0)
    module = Deep().double()
    model = program(module, torch.randn(3, 6, dtype=torch.float64))
    x = torch.tensor(rng.normal(size=(25, 6)))
    y = torch.tensor(rng.integers(3, size=25))
    with torch.no_grad():
        h = module.first(torch.relu(module.convolution(x[:, None])).flatten(1))
    expected = nn.functional.cosine_similarity(h[:, None], h[None], dim=2).numpy()
    for parameters in ((), ("convolution.weight",)):
        objective = Objective(model, ObjectiveSpec("cross_entropy"), parameters)
        rows = TensorRows({"x": x}, y)
        found = influence(objective, rows, rows, method="representation", top_k=None)
        np.testing.assert_allclose(abs(found.scores), abs(expected), rtol=1e-5, atol=1e-7)


def test_the_sign_is_that_of_the_last_layers_gradients(case):
    c = case("cross_entropy", False)
    last = case("cross_entropy", False, parameters=("2.weight",))
    for measurement in ("loss", "margin"):
        found = influence(c.objective, c.rows, c.rows, method="representation", measurement=measurement, top_k=None)
        dots = influence(last.objective, c.rows, c.rows, method="grad_dot", measurement=measurement, top_k=None)
        h = influence(last.objective, c.rows, c.rows, method="representation", measurement=measurement, top_k=None)
        np.testing.assert_array_equal(found.scores, h.scores)
        similar = found.scores != 0
        features = last_layer(c.objective).evaluate({"x": c.x, "input": c.x})[0]
        cosines = nn.functional.cosine_similarity(features[:, None], features[None], dim=2).numpy()
        np.testing.assert_array_equal(np.sign(found.scores), np.sign(dots.scores))
        np.testing.assert_allclose(abs(found.scores[similar]), abs(cosines.T[similar]), rtol=1e-5)


def test_it_ranks_no_row_by_itself(case):
    c = case("binary_logistic", False, weighted=True)
    method = REGISTRY["representation"]
    problem = Problem(c.objective, c.rows)
    blocks = [block.scores for block, _ in method.self_score(method.fit(problem), problem)]
    assert (torch.cat(blocks) == 1).all()
    with pytest.raises(InvalidArgument, match="ranks none"):
        self_influence(c.objective, c.rows, method="representation")


class NoLastLayer(nn.Module):
    """Outputs that a product with a scale makes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.tanh(x) * self.scale


def test_a_model_without_a_last_layer_is_refused(program):
    x = torch.randn(6, 3, dtype=torch.float64)
    objective = Objective(program(NoLastLayer(), x), ObjectiveSpec("cross_entropy"))
    rows = TensorRows({"x": x}, torch.arange(6) % 3)
    with pytest.raises(InvalidArgument, match="linear layer") as caught:
        influence(objective, rows, rows, method="representation")
    assert caught.value.violations[0].reason == Reason.MODEL_UNSUPPORTED
