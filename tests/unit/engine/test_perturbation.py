"""I_pert against dense derivatives, against the other route, and against what retraining measures."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import jacrev

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import Batch, TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.perturbation.double_backward import double_backward
from undue_service.engine.perturbation.head_pass import HeadPass
from undue_service.engine.perturbation.head_route import HeadRoute
from undue_service.engine.perturbation.influence import perturbation_influence
from undue_service.engine.perturbation.route import Targets

LOSSES = ["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]


def batch_of(c, rows=None):
    return c.objective.place(next(c.rows.batches(10**6, rows)))


def gradient_of_row(objective, theta, batch, i, x):
    """∇_θ ℓ of row i with the input x, by nothing but the loss."""
    row = Batch({"input": x[None]}, batch.targets[i : i + 1], None, batch.index[i : i + 1])
    return torch.func.grad(lambda at: objective.losses(at, row)[0])(theta)


def dense(c, tests, damping):
    """−s_Tᵀ ∇ₓ∇_θ ℓ_i for all rows by dense float64 derivatives, with s_T by the dense Hessian of R."""
    objective, batch = c.objective, batch_of(c)
    w = torch.ones(len(c.x), dtype=torch.float64) if c.weights is None else c.weights

    def risk(theta):
        return (w * objective.losses(theta, batch)).sum() / len(c.x) + 0.5 * (objective.l2 * theta.square()).sum()

    H = torch.func.hessian(risk)(objective.theta) + damping * torch.eye(len(objective.theta), dtype=torch.float64)
    m = torch.func.grad(lambda theta: objective.losses(theta, batch)[tests].mean())(objective.theta)
    s = torch.linalg.solve(H, m)
    mixed = [
        jacrev(lambda x, i=i: gradient_of_row(objective, objective.theta, batch, i, x))(c.x[i]) for i in range(len(c.x))
    ]
    return torch.stack([-s @ one for one in mixed]), s


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", [True, False], ids=["linear head", "network"])
def test_influence_is_the_dense_mixed_derivative(case, loss, head):
    c = case(loss, head=head, weighted=True)
    tests, damping = [1, 4, 7], 0.3 if head else 3
    expected, _ = dense(c, tests, damping)
    found = perturbation_influence(c.objective, c.rows, c.rows, tests=tests, damping=damping, method="exact")
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    small = perturbation_influence(
        c.objective, c.rows, c.rows, tests=tests, rows=[3, 0], damping=damping, method="exact", memory_bytes=2**12
    )
    torch.testing.assert_close(small, expected[[3, 0]], rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parameters", [(), ("weight",)], ids=["all", "weight alone"])
def test_a_heads_closed_form_is_the_double_backward_pass(case, loss, parameters):
    c = case(loss, parameters=parameters)
    batch, theta = batch_of(c), c.objective.theta
    generator = torch.Generator().manual_seed(5)
    s = torch.randn(2, len(theta), generator=generator, dtype=torch.float64)
    moved = theta + torch.randn(2, len(theta), generator=generator, dtype=torch.float64)
    heads = torch.arange(len(c.x)) % 2
    head = c.objective.head
    own, along = (head.from_theta(one.T).permute(1, 2, 0) for one in (moved, s))
    for keep in (True, False):
        found = HeadPass(c.objective, batch, "input", 7, keep=keep).influence(own, along, heads)
        for k in range(2):
            expected = double_backward(c.objective, moved[k], batch, "input", s[k])
            torch.testing.assert_close(found[heads == k], expected[heads == k], rtol=1e-9, atol=1e-12)


def test_what_lies_below_a_head_is_passed_back_through(program):
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU6(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).double()
    module[2].running_var.uniform_(0.5, 2)
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    model = program(module, x)
    objective = Objective(model, ObjectiveSpec("cross_entropy", 0.1), ("4.*",))
    batch = objective.place(Batch({"x": x}, torch.tensor([0, 1, 0, 1, 1]), None, torch.arange(5)))
    (name,) = batch.inputs
    s = torch.randn(len(objective.theta), dtype=torch.float64)
    theta, S = (objective.head.from_theta(one[:, None]).permute(1, 2, 0) for one in (objective.theta, s))
    found = HeadPass(objective, batch, name, 2, keep=True).influence(theta, S, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(found, double_backward(objective, objective.theta, batch, name, s))
    assert float(found.abs().max()) > 1e-3
    ignored = HeadPass(objective, batch, name, 2, keep=True).influence(theta, S, torch.tensor([0, -1, 0, -1, -1]))
    torch.testing.assert_close(ignored[0], found[0])
    assert not ignored[[1, 3, 4]].any()


def fitted(c, x):
    """θ* of the rows with other inputs, by Newton's method with dense derivatives."""
    objective = c.objective
    batch = replace(batch_of(c), inputs={"input": x})

    def risk(theta):
        return objective.losses(theta, batch).mean() + 0.5 * (objective.l2 * theta.square()).sum()

    theta = objective.theta.clone()
    for _ in range(50):
        gradient = torch.func.grad(risk)(theta)
        if float(gradient.norm()) < 1e-13:
            break
        theta = theta - torch.linalg.solve(torch.func.hessian(risk)(theta), gradient)
    assert float(gradient.norm()) < 1e-11
    return theta


@pytest.mark.parametrize("loss", ["binary_logistic", "cross_entropy"])
def test_influence_is_the_slope_of_the_retrained_loss(case, loss):
    c = case(loss)
    star = c.objective.space.unflatten(fitted(c, c.x))
    at = c.objective.at({**c.objective.program.parameters, **star})
    tests = [2, 9, 11]
    cost = batch_of(c, tests)
    found = perturbation_influence(at, c.rows, c.rows, tests=tests, method="exact")
    generator = torch.Generator().manual_seed(8)
    eps, slopes = 1e-4, []
    for r in range(20):
        i, delta = r, torch.randn(4, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            x = c.x.clone()
            x[i] += sign * eps * delta
            ends.append(float(c.objective.losses(fitted(c, x), cost).mean()))
        slopes.append((float(found[i] @ delta) / len(c.x), (ends[0] - ends[1]) / (2 * eps)))
    predicted, measured = torch.tensor(slopes).T
    assert float(torch.cosine_similarity(predicted, measured, dim=0)) >= 0.95
    torch.testing.assert_close(predicted, measured, rtol=1e-3, atol=1e-3 * float(measured.abs().max()))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_logistic", "smooth_hinge"])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_ranked_by_the_size_of_their_influence(case, loss, weighted):
    c = case(loss, weighted=weighted)
    aims = Targets.of([[1, 4, 7], [2]])
    shares = aims.shares(aims.places >= 0)

    def ranked(prefilter, damping=0.3):
        free = torch.tensor([True, True, False, True])
        route = HeadRoute(c.objective, c.rows, c.rows, aims, "input", free, damping=damping, prefilter=prefilter)
        route.resume(c.objective.theta)
        return route, route.rank(c.objective.theta, shares)

    w = torch.ones(len(c.x)) if c.weights is None else c.weights
    _, every = ranked(None)
    _, some = ranked(12)
    for k, tests in enumerate([[1, 4, 7], [2]]):
        expected, _ = dense(c, tests, 0.3)
        torch.testing.assert_close(every[k], w * expected[:, [0, 1, 3]].abs().sum(dim=1), rtol=1e-6, atol=1e-9)
        # The input is the features here, so that the prefilter keeps those of the largest Euclidean norm.
        kept = set(torch.topk(w * expected.norm(dim=1), 12).indices.tolist())
        assert set((some[k] >= 0).nonzero()[:, 0].tolist()) == kept
        torch.testing.assert_close(some[k][sorted(kept)], every[k][sorted(kept)], rtol=1e-9, atol=1e-12)


class Rounds(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.table(x.to(torch.int64)).mean(dim=1))


@pytest.mark.parametrize("tokens", [torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.int64)], ids=["cast", "integers"])
@pytest.mark.parametrize("parameters", [(), ("head*",)], ids=["all", "head"])
def test_an_input_that_no_derivative_reaches_is_refused(program, tokens, parameters):
    objective = Objective(program(Rounds(), tokens), ObjectiveSpec("cross_entropy", 0.1), parameters)
    rows = TensorRows({"x": tokens}, torch.tensor([0, 1, 1]))
    with pytest.raises(InvalidArgument, match="register a model whose input is the embedding") as raised:
        perturbation_influence(objective, rows, rows, damping=3, method="exact")
    assert raised.value.reason is Reason.INPUT_NOT_DIFFERENTIABLE


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, a, b):
        return self.head(torch.cat([a, b], dim=1))


def test_of_several_inputs_one_is_named(program):
    a, b = torch.randn(6, 1, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    objective = Objective(program(TwoInputs(), a, b), ObjectiveSpec("cross_entropy", 0.1))
    rows = TensorRows({"a": a, "b": b}, torch.tensor([0, 1, 1, 0, 1, 0]))
    with pytest.raises(InvalidArgument, match="name the one to perturb"):
        perturbation_influence(objective, rows, rows)
    with pytest.raises(InvalidArgument, match="no input 'c'; it has 'a', 'b'"):
        perturbation_influence(objective, rows, rows, input="c")
    parts = [perturbation_influence(objective, rows, rows, input=name) for name in ("a", "b")]
    assert [tuple(part.shape) for part in parts] == [(6, 1), (6, 3)]
