"""Which models are linear heads, and that their factors are the gradients."""

import pytest
import torch
from torch import nn

from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.objective import Objective
from unit.engine import dense

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """f = forward(x, w (3, 4), v (4, 3), b (3), u (4))."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.v = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 3))
        self.b, self.u = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(4))
        self.m = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


F = nn.functional
LINEAR = {
    "linear": (lambda m, x: F.linear(x, m.w, m.b), ()),
    "linear, weight": (lambda m, x: F.linear(x, m.w, m.b), ("w",)),
    "linear, bias": (lambda m, x: F.linear(x, m.w, m.b), ("b",)),
    "linear, no bias": (lambda m, x: F.linear(x, m.w), ()),
    "linear, transposed": (lambda m, x: F.linear(x, m.v.t(), m.b), ()),
    "addmm": (lambda m, x: torch.addmm(m.b, x, m.v), ()),
    "matmul": (lambda m, x: x @ m.v, ()),
    "matmul, T": (lambda m, x: x @ m.w.T, ()),
    "matmul, transpose": (lambda m, x: x @ m.w.transpose(0, 1), ()),
    "matmul, permute": (lambda m, x: torch.mm(x, m.w.permute(1, 0)), ()),
    "matmul + bias": (lambda m, x: x @ m.v + m.b, ()),
    "bias + matmul": (lambda m, x: m.b + x @ m.v, ()),
    "matmul + bias, weight": (lambda m, x: x @ m.v + m.b, ("v",)),
    "matmul + bias, bias": (lambda m, x: x @ m.v + m.b, ("b",)),
    "last layer": (lambda m, x: F.linear(torch.tanh(m.m(x)), m.w, m.b), ("w", "b")),
    "residual": (lambda m, x: F.linear(x, m.w, m.b) + torch.tanh(m.m(x))[:, :3], ("w", "b")),
    "reshaped": (lambda m, x: F.linear(x, m.w, m.b).reshape(x.shape[0], 3).clone(), ()),
}
NOT_LINEAR = {
    "used twice": (lambda m, x: F.linear(x, m.w, m.b) + m.b, ()),
    "weight in the features": (lambda m, x: F.linear(x * m.u, m.w, m.b), ()),
    "scaled": (lambda m, x: torch.addmm(m.b, x, m.v, beta=2), ()),
    "nonlinear end": (lambda m, x: torch.tanh(F.linear(x, m.w, m.b)), ()),
    "two layers": (lambda m, x: F.linear(torch.tanh(m.m(x)), m.w, m.b), ()),
    "inner layer": (lambda m, x: F.linear(torch.tanh(m.m(x)), m.w, m.b), ("m.*",)),
    "broadcast bias": (lambda m, x: x @ m.v + m.u[:1], ("v", "u")),
    "sum of two": (lambda m, x: F.linear(x, m.w) + x @ m.v, ()),
}


@pytest.mark.parametrize(("function", "parameters"), LINEAR.values(), ids=LINEAR)
def test_factored_gradients_are_those_of_the_generic_route(program, function, parameters):
    objective = Objective(program(Head(function), X), ObjectiveSpec("cross_entropy"), parameters)
    assert objective.head is not None
    assert sorted(objective.head.positions.reshape(-1).tolist()) == list(range(objective.space.dim))
    batch = objective.place(_batch(X, torch.tensor([0, 1, 2, 0, 1, 2])))
    generic = dense.row_gradients(objective, batch)
    block = loss_gradients(objective, batch)
    V = torch.randn(objective.space.dim, 5, dtype=torch.float64)
    weights = torch.rand(6, dtype=torch.float64)
    close = {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(block.dense(), generic, **close)
    torch.testing.assert_close(block.dot(V), generic @ V, **close)
    torch.testing.assert_close(block.norms(), generic.norm(dim=1), **close)
    torch.testing.assert_close(block.total(weights), weights @ generic, **close)
    assert generic.abs().max() > 0.1


@pytest.mark.parametrize(("function", "parameters"), NOT_LINEAR.values(), ids=NOT_LINEAR)
def test_what_is_not_linear_in_every_selected_parameter_is_no_head(program, function, parameters):
    assert Objective(program(Head(function), X), ObjectiveSpec("cross_entropy"), parameters).head is None


@pytest.mark.parametrize(
    "function", [lambda m, x: x @ m.u, lambda m, x: torch.mv(x, m.u), lambda m, x: (x @ m.u[:, None]).squeeze(1)]
)
def test_a_vector_of_weights_is_a_head_of_one_output(program, function):
    objective = Objective(program(Head(function), X), ObjectiveSpec("binary_logistic"))
    batch = objective.place(_batch(X, torch.tensor([0, 1, 1, 0, 1, 1])))
    torch.testing.assert_close(
        loss_gradients(objective, batch).dense(), dense.row_gradients(objective, batch), rtol=1e-12, atol=1e-13
    )


def _batch(x, y):
    from undue_service.engine.data import Batch

    return Batch({"x": x}, y, None, torch.arange(len(x)))
