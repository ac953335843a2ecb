"""EK-FAC against its definition written out with Kronecker products in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine import fisher
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.curvature import GaussNewton
from undue_service.engine.curvature import kfac as kfac_module
from undue_service.engine.curvature.ekfac import fit_ekfac
from undue_service.engine.curvature.low_rank import low_rank
from undue_service.engine.data import Batch, TensorRows
from undue_service.engine.losses import BinaryLogistic, CrossEntropy, SquaredError
from undue_service.engine.objective import Objective
from unit.engine import dense, kronecker
from unit.engine.test_taps import MODELS, Made, networks, opened, placed

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
N = 40


def inputs_like(x, n=N):
    generator = torch.Generator().manual_seed(4)
    if not x.is_floating_point():
        return torch.randint(7, (n, *x.shape[1:]), generator=generator)
    return torch.randn(n, *x.shape[1:], generator=generator, dtype=torch.float64)


def problem(name, exclude=(), n=N, weighted=False):
    torch.manual_seed(0)
    make, example, _ = MODELS[name]
    module = make()
    objective = opened(module, example, exclude=exclude)
    batch = placed(objective, inputs_like(example, n))
    weights = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) if weighted else None
    return module, objective, batch, TensorRows(batch.inputs, batch.targets, weights), weights


WRITTEN_OUT = ["mlp", "no bias", "one output", "sequence", "used twice", "conv2d",
               "conv2d same, groups", "conv1d", "norms", "embedding", "embedding used twice"]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
def test_it_is_its_definition(name, weighted):
    module, objective, batch, rows, weights = problem(name, weighted=weighted)
    expected = kronecker.ekfac(objective, module, batch, weights)
    found = fit_ekfac(objective, rows)
    torch.testing.assert_close(found.to_dense(), expected, **CLOSE)
    V = torch.randn(objective.space.dim, 3, dtype=torch.float64)
    torch.testing.assert_close(found.matmat(V), expected @ V, **CLOSE)
    damped = expected + 0.3 * torch.eye(len(V), dtype=V.dtype)
    torch.testing.assert_close(found.solve(V, 0.3), torch.linalg.solve(damped, V), **CLOSE)
    assert found.mean_eigenvalue().value == pytest.approx(float(expected.trace()) / len(V), rel=1e-10)
    assert found.mean_eigenvalue().standard_error == 0


@pytest.mark.parametrize("name", ["mlp", "conv2d", "norms"])
def test_biases_without_l2_are_blocks_of_their_own(name):
    module, objective, batch, rows, _ = problem(name, exclude=("*bias",))
    assert any(block.l2 == 0 for block in objective.taps.blocks)
    torch.testing.assert_close(
        fit_ekfac(objective, rows).to_dense(), kronecker.ekfac(objective, module, batch), **CLOSE
    )


@pytest.mark.parametrize("name", ["mlp", "sequence", "conv2d same, groups", "embedding used twice", "norms"])
def test_blocks_of_rows_change_nothing(name):
    _, objective, _, rows, _ = problem(name)
    whole = fit_ekfac(objective, rows).to_dense()
    torch.testing.assert_close(fit_ekfac(objective, rows, memory_bytes=20_000).to_dense(), whole, **CLOSE)


@pytest.mark.parametrize("name", list(MODELS))
def test_its_trace_is_that_of_the_gauss_newton_matrix(name):
    torch.manual_seed(0)
    make, example, _ = MODELS[name]
    objective = opened(make(), example, decomposed=name == "lstm")
    batch = placed(objective, inputs_like(example, 6))
    rows = TensorRows(batch.inputs, batch.targets)
    expected = GaussNewton(objective, rows).mean_eigenvalue()
    assert expected.standard_error == 0
    assert fit_ekfac(objective, rows).mean_eigenvalue().value == pytest.approx(expected.value, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(networks())
def test_random_networks(network):
    module, x, parameters, exclude, decomposed = network
    objective = opened(module, x, parameters=parameters, exclude=exclude, decomposed=decomposed)
    batch = placed(objective, x.double())
    rows = TensorRows(batch.inputs, batch.targets)
    found = fit_ekfac(objective, rows)
    matrix = found.to_dense()
    G = GaussNewton(objective, rows).to_dense()
    torch.testing.assert_close(matrix.trace(), G.trace(), **CLOSE)
    for block in found.blocks:
        at = block.positions
        torch.testing.assert_close(matrix[at, at].sum(), G[at, at].sum(), **CLOSE)
        assert not matrix[at][:, [one for one in range(len(G)) if one not in set(at.tolist())]].any()
    scores = influence(objective, rows, rows, method="ekfac", damping=0.1, rank=10**6, top_k=None).scores
    g = dense.row_gradients(objective, batch)
    damped = matrix + 0.1 * torch.eye(len(G), dtype=G.dtype)
    expected = (g @ torch.linalg.solve(damped, g.T) / len(g)).numpy()
    np.testing.assert_allclose(scores, expected.T, rtol=1e-5, atol=1e-6 * abs(expected).max())
    own = self_influence(objective, rows, method="ekfac", damping=0.1, rank=1)
    np.testing.assert_allclose(own.scores, np.sort(np.diag(expected))[::-1], rtol=1e-8)


def test_a_large_block_without_factors_is_its_diagonal(monkeypatch):
    monkeypatch.setattr(kfac_module, "DENSE_UP_TO", 2)
    _, objective, _, rows, _ = problem("norms")
    found, G = fit_ekfac(objective, rows).to_dense(), GaussNewton(objective, rows).to_dense()
    for block in objective.taps.blocks:
        if block.kind == "dense":
            at = block.positions
            torch.testing.assert_close(found[at[:, None], at], torch.diag(G[at, at]), **CLOSE)


@pytest.mark.parametrize(("loss", "C"), [(CrossEntropy(), 5), (BinaryLogistic(), 1), (SquaredError(), 3)])
def test_the_roots_are_roots_of_the_curvature(loss, C):
    f = torch.randn(7, C, dtype=torch.float64)
    M = fisher.root(loss, f, None)
    torch.testing.assert_close(M @ M.mT, loss.curvature(f, None), **CLOSE)
    w = torch.rand(7, dtype=torch.float64)
    vectors = list(fisher.cotangents(loss, f, Batch({}, None, w, torch.arange(7)), 0))
    torch.testing.assert_close(
        sum(c[:, :, None] * c[:, None] for c in vectors), w[:, None, None] * loss.curvature(f, None)
    )


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()])
def test_beyond_32_outputs_one_vector_is_drawn_whose_second_moment_is_the_curvature(loss):
    f = torch.randn(1, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    n = 20_000
    batch = Batch({}, None, None, torch.arange(n))
    [drawn] = fisher.cotangents(loss, f.expand(n, -1), batch, seed=3)
    S = loss.curvature(f, None)[0]
    assert float((drawn.T @ drawn / n - S).norm() / S.norm()) < 0.1
    [some] = fisher.cotangents(loss, f.expand(5, -1), Batch({}, None, None, torch.tensor([7, 3, 19_000, 4, 0])), seed=3)
    torch.testing.assert_close(some, drawn[[7, 3, 19_000, 4, 0]])
    [others] = fisher.cotangents(loss, f.expand(n, -1), batch, seed=4)
    assert not torch.equal(others, drawn)


def test_drawn_numbers_are_uniform():
    drawn = fisher.uniform(torch.arange(10_000), 3, seed=1)
    assert 0 <= drawn.min() < 1e-3 < 0.999 < drawn.max() < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.01
    assert float(torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max()) < 0.03


def test_many_outputs():
    torch.manual_seed(0)
    objective = opened(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 40)), torch.randn(2, 4))
    batch = placed(objective, torch.randn(3000, 4, dtype=torch.float64))
    rows = TensorRows(batch.inputs, batch.targets)
    exact = GaussNewton(objective, rows).mean_eigenvalue().value
    one, again, other = (
        fit_ekfac(objective, rows, seed=seed, memory_bytes=m) for seed, m in ((0, 2**30), (0, 10**6), (1, 2**30))
    )
    assert one.mean_eigenvalue().value == pytest.approx(exact, rel=0.05)
    assert again.mean_eigenvalue().value == pytest.approx(one.mean_eigenvalue().value, rel=1e-9)
    assert abs(other.mean_eigenvalue().value - one.mean_eigenvalue().value) > 1e-9


def test_a_low_rank_is_the_best_under_the_marginals_and_full_rank_is_exact():
    L = torch.rand(6, 1, dtype=torch.float64).pow(4) * torch.rand(1, 9, dtype=torch.float64).pow(4)
    W = 1 / (L + 0.01)
    s, a = L.sum(1), L.sum(0)
    for transposed in (False, True):
        for rank in (1, 3, 6):
            U, V = low_rank(W.T, L.T, rank) if transposed else low_rank(W, L, rank)
            error = (U @ V.T).T - W if transposed else U @ V.T - W
            best = torch.linalg.svdvals(s[:, None] * W * a)[rank:].square().sum().sqrt()
            torch.testing.assert_close((s[:, None] * error * a).norm(), best, rtol=1e-6, atol=1e-9 * W.norm())


def test_thin_scores_are_those_of_the_low_rank_inverse(monkeypatch):
    """Whether from factors or from columns, one row or a mean: one and the same bilinear form."""
    torch.manual_seed(0)
    for body in (
        nn.Sequential(nn.Linear(12, 30), nn.Tanh(), nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 3)),
        Made(
            lambda m, x: m.v(m.w(m.w(m.u(x)).tanh()).tanh()),
            u=nn.Linear(12, 20),
            w=nn.Linear(20, 20),
            v=nn.Linear(20, 3),
        ),
    ):
        objective = opened(body, torch.randn(2, 12))
        batch = placed(objective, torch.randn(50, 12, dtype=torch.float64))
        rows = TensorRows(batch.inputs, batch.targets)
        settings = {"method": "ekfac", "damping": 0.01, "top_k": 50, "rank": 2}
        each = dense.lists_to_matrix(influence(objective, rows, rows, **settings), 50)
        [mean] = dense.lists_to_matrix(influence(objective, rows, rows, aggregate="mean", **settings), 50)
        np.testing.assert_allclose(each.mean(0), mean, atol=1e-12 * abs(mean).max())
        full = dense.lists_to_matrix(influence(objective, rows, rows, **{**settings, "rank": 10**6}), 50)
        assert abs(each - full).max() > 1e-6 * abs(full).max()
        small = dense.lists_to_matrix(influence(objective, rows, rows, **settings, memory_bytes=300_000), 50)
        np.testing.assert_allclose(small, each, atol=1e-11 * abs(each).max())


def test_the_default_rank_is_near_full_rank_on_a_trained_network():
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(200):
        at = torch.randint(1697, (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[at]), y[at]).backward()
        optimizer.step()
    objective = opened(net, x[:2], l2=1e-3)
    train, test = TensorRows({"x": x[:1697]}, y[:1697]), TensorRows({"x": x[1697:]}, y[1697:])
    thin, full = (
        influence(objective, train, test, method="ekfac", rank=rank, top_k=None).scores for rank in (None, 10**6)
    )
    single = objective.program.to("cpu", torch.float32)
    fast = influence(Objective(single, objective.spec), train, test, method="ekfac", top_k=None).scores
    for scores in (thin, fast):
        assert np.abs(scores - full).max() < 1e-4 * np.abs(full).max()
    assert np.abs(thin - full).max() > 0, "the default truncates here"


def test_without_l2_and_damping_it_is_singular():
    torch.manual_seed(0)
    objective = opened(nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3)), torch.randn(2, 4), l2=0.0)
    batch = placed(objective, torch.randn(10, 4, dtype=torch.float64))
    rows = TensorRows(batch.inputs, batch.targets)
    with pytest.raises(FailedPrecondition) as caught:
        influence(objective, rows, rows, method="ekfac", damping=0.0)
    assert caught.value.reason is Reason.HESSIAN_SINGULAR
    assert "damping=" in caught.value.message


def test_the_default_damping_is_a_tenth_of_the_mean_eigenvalue():
    _, objective, _, rows, _ = problem("mlp")
    found = influence(objective, rows, rows, method="ekfac").diagnostics
    assert found.damping == pytest.approx(0.1 * fit_ekfac(objective, rows).mean_eigenvalue().value)
    assert found.damping_source == "mean_eigenvalue"
    assert found.solver == "ekfac"
