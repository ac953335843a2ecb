"""Arnoldi: the leading eigenpairs are those of the dense matrix, and λ means the same on what they leave out."""

import pytest
import torch

from undue_service.engine.curvature import Damped, Dense, GaussNewton
from undue_service.engine.solvers import Arnoldi
from unit.engine.test_cg import Counted
from unit.engine.test_solvers import Moments


def moments(P=60, decay=1.0, seed=0, floor=0.0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, P + 1, dtype=torch.float64) ** (-decay)
    x = torch.randn(300, P, dtype=torch.float64, generator=generator) * scales
    return Moments(x, torch.full((P,), floor, dtype=torch.float64))


def rhs(P=60, K=4, seed=1):
    return torch.randn(P, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 8, 30, 60])
@pytest.mark.parametrize(("floor", "damping"), [(0.0, 0.02), (0.03, 0.0), (0.03, 0.02)])
def test_it_is_the_truncated_inverse_with_the_complement_at_l2_plus_damping(rank, floor, damping):
    A = Damped(moments(floor=floor), damping)
    values, vectors = torch.linalg.eigh(A.curvature.to_dense() - torch.diag(A.curvature.diagonal))
    mu, U = values[-rank:], vectors[:, -rank:]
    known = floor + damping
    v = rhs()
    expected = U @ ((U.T @ v) / (mu + known)[:, None]) + (v - U @ (U.T @ v)) / known
    state = Arnoldi(rank).prepare(A)
    solution = Arnoldi(rank).solve(state, v)
    assert (solution.value - expected).norm() < 0.03 * expected.norm()
    torch.testing.assert_close(state.mu * known, mu.flip(0), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(state.U.T @ state.U, torch.eye(rank).double(), rtol=0, atol=1e-10)
    assert (solution.status == "converged") == (rank == 60)


def test_a_diagonal_that_differs_is_counted_as_it_is():
    """An excluded bias has λ alone, its neighbour λ + l2: with nothing else to truncate, the answer is exact."""
    A = moments()
    A.diagonal[::2] = 0.5
    A = Damped(A, 0.02)
    v = rhs()
    found = Arnoldi(60).solve(Arnoldi(60).prepare(A), v)
    torch.testing.assert_close(found.value, torch.linalg.solve(A.to_dense(), v), rtol=1e-7, atol=1e-9)
    nothing = Moments(torch.zeros(3, 60, dtype=torch.float64), A.curvature.diagonal)
    bare = Arnoldi(4).solve(Arnoldi(4).prepare(Damped(nothing, 0.02)), v)
    torch.testing.assert_close(bare.value, v / (A.curvature.diagonal + 0.02)[:, None])
    assert bare.residual < 1e-14


def test_without_a_known_diagonal_it_is_the_projection_of_the_paper():
    A = Dense(moments().to_dense())
    values, vectors = torch.linalg.eigh(A.matrix)
    mu, U = values[-8:], vectors[:, -8:]
    v = rhs()
    solution = Arnoldi(8).solve(Arnoldi(8).prepare(A), v)
    expected = U @ ((U.T @ v) / mu[:, None])
    assert (solution.value - expected).norm() < 1e-2 * expected.norm()
    outside = v - U @ (U.T @ v)
    assert solution.residual == pytest.approx(float((outside.norm(dim=0) / v.norm(dim=0)).max()), rel=0.02)


def test_more_eigenpairs_leave_less():
    A = Damped(moments(), 0.001)
    left = [Arnoldi(rank).solve(Arnoldi(rank).prepare(A), rhs()).residual for rank in (2, 10, 30, 60)]
    assert left == sorted(left, reverse=True)
    assert left[0] > 0.1
    assert left[-1] < 1e-9


def test_products_are_few_and_counted():
    A = Counted(moments(P=400, decay=1.0))
    heard = []
    state = Arnoldi(20, progress=lambda *told: heard.append(told)).prepare(Damped(A, 0.01))
    assert sum(A.columns) == state.matvecs <= 3 * 20 + 32
    assert state.accuracy < 0.01
    assert heard[-1][0] == state.matvecs
    assert {total for _, total in heard} == {92}


def test_an_eigenvalue_more_often_than_the_block_is_wide_is_found_each_time():
    values = torch.cat([torch.full((40,), 5.0), torch.full((20,), 1.0)]).double()
    Q = torch.linalg.qr(rhs(60, 60))[0]
    A = Damped(Dense(Q @ torch.diag(values) @ Q.T), 0.1)
    state = Arnoldi(45).prepare(A)
    assert (state.mu * 0.1)[:40].tolist() == pytest.approx([5.0] * 40)
    assert (state.mu * 0.1)[40:].tolist() == pytest.approx([1.0] * 5)


def test_the_seed_decides_where_it_starts_and_hardly_what_it_finds():
    A = Damped(moments(), 0.01)
    first, again, other = (Arnoldi(8, seed).solve(Arnoldi(8, seed).prepare(A), rhs()).value for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert 0 < (first - other).norm() < 1e-2 * first.norm()


@pytest.mark.parametrize("exclude", [(), ("*bias",)])
def test_it_solves_with_a_models_curvature(case, exclude):
    c = case("cross_entropy", head=False, exclude=exclude, weighted=True)
    A = Damped(GaussNewton(c.objective, c.rows), 0.05)
    solver = Arnoldi(A.dim)
    v = rhs(A.dim)
    torch.testing.assert_close(
        solver.solve(solver.prepare(A), v).value, torch.linalg.solve(A.to_dense(), v), rtol=1e-8, atol=1e-10
    )
