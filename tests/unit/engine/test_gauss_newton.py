"""Gauss–Newton, the empirical Fisher and the identity against dense float64 references, on random networks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.curvature import (
    Damped,
    Dense,
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    Identity,
    known_diagonal,
    undamped,
)
from undue_service.engine.curvature import gauss_newton as module
from undue_service.engine.objective import Objective
from unit.engine import dense
from unit.engine.conftest import Case

LOSSES = ["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]
CURVATURES = {GaussNewton: dense.gauss_newton, EmpiricalFisher: dense.empirical_fisher}
ACTIVATIONS = (nn.Tanh, nn.GELU, nn.Softplus, nn.SiLU)


@st.composite
def networks(draw):
    """(widths, activations, loss, weighted, exclude, parameters, n, seed) of a network with up to three layers."""
    loss = draw(st.sampled_from(LOSSES))
    one = {"binary_logistic": 1, "smooth_hinge": 1, "cross_entropy": draw(st.integers(2, 4))}
    outputs = one.get(loss, draw(st.integers(1, 3)))
    widths = [*draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)), outputs]
    acts = [draw(st.sampled_from(ACTIVATIONS)) for _ in widths]
    exclude = draw(st.sampled_from([(), ("*bias",), ("*weight",)]))
    parameters = draw(st.sampled_from([(), ("0.*",), ("*weight",), ("2.weight", "0.bias"), ("2.*",)]))
    return (
        widths,
        acts,
        loss,
        draw(st.booleans()),
        exclude,
        parameters,
        draw(st.integers(1, 9)),
        draw(st.integers(0, 99)),
    )


def made(program, drawn):
    widths, acts, loss, weighted, exclude, parameters, n, seed = drawn
    torch.manual_seed(seed)
    layers, inside = [], widths[0]
    for width, act in zip(widths[1:], acts, strict=False):
        layers += [nn.Linear(inside, width), act()]
        inside = width
    if len(layers) == 2:
        layers += [nn.Linear(inside, inside)]
    else:
        layers = layers[:-1]
    model = program(nn.Sequential(*layers), torch.randn(3, widths[0]))
    x = torch.randn(n, widths[0], dtype=torch.float64)
    targets = torch.randint(max(inside, 2), (n,)) if loss != "squared_error" else torch.randn(n, inside).double()
    weights = torch.rand(n, dtype=torch.float64) * 2 if weighted else None
    temperature = 0.3 if loss == "smooth_hinge" else 0.0
    return Case(Objective(model, ObjectiveSpec(loss, 0.1, exclude, temperature), parameters), x, targets, weights)


@pytest.mark.parametrize("kind", CURVATURES)
@settings(max_examples=12, deadline=None)
@given(drawn=networks())
def test_products_and_matrix_are_the_formula_on_random_networks(program, kind, drawn):
    c = made(program, drawn)
    expected = CURVATURES[kind](c, 0.0)
    found = kind(c.objective, c.rows)
    torch.testing.assert_close(found.to_dense(), expected, rtol=1e-9, atol=1e-11)
    V = torch.randn(found.dim, 3, dtype=torch.float64)
    torch.testing.assert_close(found.matmat(V), expected @ V, rtol=1e-9, atol=1e-11)
    mean = found.mean_eigenvalue()
    assert mean.value == pytest.approx(float(expected.diagonal().mean()), rel=1e-10)
    assert mean.standard_error == 0
    floor = torch.linalg.eigvalsh(found.to_dense() - torch.diag(c.objective.l2))[0]
    assert floor > -1e-12 * float(expected.abs().max()), "positive semi-definite"


@pytest.mark.parametrize("kind", [Hessian, *CURVATURES])
@pytest.mark.parametrize("head", [True, False], ids=["head", "network"])
@pytest.mark.parametrize("warm", [True, False])
def test_some_rows_are_a_data_set_of_their_own(case, kind, head, warm):
    c = case("cross_entropy", head, weighted=True)
    rows = [4, 17, 4, 0]
    alone = Case(c.objective, c.x[rows], c.y[rows], c.weights[rows])
    whole = kind(c.objective, c.rows)
    V = torch.randn(whole.dim, 3, dtype=torch.float64)
    if warm:
        whole.matmat(V)
    some = whole.of(rows)
    assert some.dim == whole.dim
    torch.testing.assert_close(some.matmat(V), kind(alone.objective, alone.rows).matmat(V), rtol=1e-10, atol=1e-12)
    every = sum(whole.of([i]).matmat(V) for i in range(len(c.x))) / len(c.x)
    torch.testing.assert_close(every, whole.matmat(V), rtol=1e-10, atol=1e-12)
    assert torch.equal(whole.diagonal, c.objective.l2)


@pytest.mark.parametrize("kind", CURVATURES)
@pytest.mark.parametrize("head", [True, False], ids=["head", "network"])
def test_a_small_budget_changes_nothing_and_is_heard_of(case, kind, head):
    c = case("cross_entropy", head, weighted=True)
    heard = []
    small = kind(c.objective, c.rows, memory_bytes=4000, progress=lambda *told: heard.append(told))
    whole = kind(c.objective, c.rows)
    V = torch.randn(whole.dim, 5, dtype=torch.float64)
    torch.testing.assert_close(small.matmat(V), whole.matmat(V), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(small.to_dense(), whole.to_dense(), rtol=1e-12, atol=1e-14)
    assert small.mean_eigenvalue().value == pytest.approx(whole.mean_eigenvalue().value, rel=1e-12)
    assert len(heard) > 3
    assert heard[-1] == ("curvature", 30, 30)


@pytest.mark.parametrize("loss", LOSSES)
def test_on_a_linear_head_gauss_newton_is_the_hessian(case, loss):
    c = case(loss, weighted=True, exclude=("bias",))
    torch.testing.assert_close(
        GaussNewton(c.objective, c.rows).to_dense(), Hessian(c.objective, c.rows).to_dense(), rtol=1e-12, atol=1e-14
    )


def test_on_a_network_it_is_not(case):
    c = case("cross_entropy", head=False)
    G, H = (kind(c.objective, c.rows).to_dense() for kind in (GaussNewton, Hessian))
    assert (G - H).abs().max() > 1e-3


def test_a_head_is_computed_once(case, monkeypatch):
    c = case("cross_entropy")
    read = []
    batches = type(c.rows).batches
    monkeypatch.setattr(type(c.rows), "batches", lambda self, *a: (read.append(a), batches(self, *a))[1])
    G = GaussNewton(c.objective, c.rows)
    V = torch.eye(G.dim, dtype=torch.float64)
    first = G.matmat(V)
    for _ in range(3):
        assert torch.equal(G.matmat(V), first)
    G.mean_eigenvalue()
    assert len(read) == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_the_trace_of_a_large_model_is_drawn_with_an_honest_error(case, loss, monkeypatch):
    c = case(loss, head=False, weighted=True, n=400)
    exact = GaussNewton(c.objective, c.rows).mean_eigenvalue()
    monkeypatch.setattr(module, "_EXACT_TRACE", 0)
    drawn = GaussNewton(c.objective, c.rows).mean_eigenvalue()
    assert abs(drawn.value - exact.value) < 4 * drawn.standard_error
    assert 0 < drawn.standard_error < 0.1 * exact.value
    small = GaussNewton(c.objective, c.rows, memory_bytes=30_000).mean_eigenvalue()
    assert small.value == pytest.approx(drawn.value, rel=1e-12), "the draws do not depend on the blocks"


@pytest.mark.parametrize("kind", CURVATURES)
def test_too_many_parameters_are_refused_with_what_to_do(case, kind):
    c = case("cross_entropy")
    with pytest.raises(FailedPrecondition, match=r"15 parameters.*limit is 10.*parameters=") as error:
        kind(c.objective, c.rows, parameter_limit=10).to_dense()
    assert error.value.reason is Reason.TOO_MANY_PARAMETERS


def test_the_identity_changes_nothing():
    theta = torch.randn(7, dtype=torch.float64)
    identity = Identity(theta)
    V = torch.randn(7, 2, dtype=torch.float64)
    assert identity.dim == 7
    assert torch.equal(identity.matmat(V), V)
    assert torch.equal(identity.to_dense() @ V, V)
    assert identity.mean_eigenvalue().value == 1
    torch.testing.assert_close(Damped(identity, 0.5).matmat(V), 1.5 * V)


def test_what_is_known_of_the_diagonal(case):
    c = case("cross_entropy", exclude=("bias",))
    G = GaussNewton(c.objective, c.rows)
    assert torch.equal(known_diagonal(Damped(Damped(G, 0.25), 0.5)), c.objective.l2 + 0.75)
    assert known_diagonal(Damped(Dense(torch.eye(3).double()), 2.0)).tolist() == [2, 2, 2]
    assert undamped(Damped(Damped(G, 0.25), 0.5)) == (G, 0.75)
    assert undamped(G) == (G, 0.0)
