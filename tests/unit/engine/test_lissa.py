"""LiSSA: what it derives from the spectrum, that λ means λ, and that it stops on a residual or says why it cannot."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Damped, Dense, GaussNewton
from undue_service.engine.solvers import LiSSA
from unit.engine.test_solvers import Moments


def moments(n=600, P=20, floor=0.05, seed=0, decay=0.5):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, P + 1, dtype=torch.float64) ** (-decay / 2)
    x = torch.randn(n, P, dtype=torch.float64, generator=generator) * scales
    return Moments(x, torch.full((P,), floor, dtype=torch.float64))


def rhs(P=20, K=4, seed=1):
    return torch.randn(P, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass
class Heard:
    """Which rows each product took; None for all."""

    inner: Moments
    taken: list

    dim = property(lambda self: self.inner.dim)
    rows = property(lambda self: self.inner.rows)
    diagonal = property(lambda self: self.inner.diagonal)

    def of(self, rows):
        self.taken.append(list(rows))
        return self.inner.of(rows)

    def matmat(self, V):
        self.taken.append(None)
        return self.inner.matmat(V)

    def to_dense(self):
        return self.inner.to_dense()

    def mean_eigenvalue(self):
        return self.inner.mean_eigenvalue()


@pytest.mark.parametrize("seed", range(4))
def test_scale_batch_and_depth_follow_from_the_spectrum(seed):
    A = Damped(moments(seed=seed), 0.1)
    eigenvalues = torch.linalg.eigvalsh(A.to_dense())
    state = LiSSA().prepare(A)
    assert float(eigenvalues[-1]) <= state.largest <= 1.2 * float(eigenvalues[-1])
    trace = float(A.curvature.to_dense().trace() - A.curvature.diagonal.sum())
    assert state.batch == math.ceil(4 * trace / state.largest)
    assert 1 < state.batch < 300
    assert state.scale == pytest.approx(state.largest + trace / state.batch)
    assert state.depth == math.ceil(2 * state.scale / 0.15)


def test_a_product_takes_few_rows_and_each_row_before_any_comes_twice():
    A = Heard(moments(), [])
    solver = LiSSA(1e-3)
    state = solver.prepare(A)
    A.taken.clear()
    solution = solver.solve(state, rhs())
    few = [rows for rows in A.taken if rows is not None]
    assert {len(rows) for rows in few} == {state.batch}
    epoch = [row for rows in few[: 600 // state.batch] for row in rows]
    assert len(epoch) == len(set(epoch)) > 600 - state.batch
    every = sum(rows is None for rows in A.taken)
    assert len(few) == every * state.depth, "one product with all rows a round"
    assert solution.matvecs <= math.ceil(4 * (len(few) * state.batch / 600 + every))
    assert solution.matvecs < 4 * len(few) / 4


@pytest.mark.parametrize("damping", [0.0, 0.3, 3.0])
def test_damping_is_added_to_the_matrix_whatever_the_scale(damping):
    """The reference code's recursion adds it to the scaled product, where it means scale · λ."""
    A = Damped(moments(), damping)
    solver = LiSSA(1e-8, 200_000)
    state = solver.prepare(A)
    v = rhs()
    exact = torch.linalg.solve(A.to_dense(), v)
    found = solver.solve(state, v).value
    assert (found - exact).norm() < 1e-6 * exact.norm()
    scaled = torch.linalg.solve(A.curvature.to_dense() + state.scale * damping * torch.eye(20).double(), v)
    assert damping == 0 or (found - scaled).norm() > 0.01 * exact.norm()


def test_a_residual_far_below_the_noise_of_one_recursion_is_reached():
    found = LiSSA(1e-13, 200_000)
    assert found.solve(found.prepare(moments()), rhs()).residual <= 1e-13


def test_the_seed_decides_and_is_repeated():
    A = moments()
    first, again, other = (
        solver.solve(solver.prepare(A), rhs()).value for solver in (LiSSA(seed=1), LiSSA(seed=1), LiSSA(seed=2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_too_few_steps_are_an_error_that_names_a_damping_that_is_enough():
    heard = []
    solver = LiSSA(1e-6, 1000, progress=lambda *told: heard.append(told))
    A = moments(floor=1e-5, decay=4.0)
    with pytest.raises(
        FailedPrecondition, match=r'within 1,000 steps.*method="cg".*damping=.*max_iterations=10000'
    ) as e:
        solver.solve(solver.prepare(A), rhs())
    assert e.value.reason is Reason.SOLVER_NOT_CONVERGED
    assert e.value.metadata["iterations"] == "1000" == str(len(heard))
    assert float(e.value.metadata["residual"]) > 1e-6
    enough = float(e.value.metadata["sufficient_damping"])
    assert 0 < enough < 1
    assert solver.solve(solver.prepare(Damped(A, enough)), rhs()).residual <= 1e-6
    assert heard[-1] == (4, 4)


@pytest.mark.parametrize("seed", range(3))
def test_a_scale_that_is_too_small_is_widened(seed):
    A = moments(seed=seed)
    solver = LiSSA(1e-6, 100_000)
    state = replace(solver.prepare(A), scale=0.3 * float(torch.linalg.eigvalsh(A.to_dense())[-1]))
    assert solver.solve(state, rhs()).residual <= 1e-6


def test_divergence_is_an_error():
    """Rows so unlike that the batch which the trace suggests never holds the one that matters."""
    A = Heard(moments(), [])
    solver = LiSSA(1e-6, 100_000)
    state = replace(solver.prepare(A), scale=1e-3)
    with pytest.raises(FailedPrecondition, match=r"diverged at every scale") as error:
        solver.solve(state, rhs())
    assert error.value.reason is Reason.SOLVER_NOT_CONVERGED


@pytest.mark.parametrize("head", [True, False], ids=["head", "network"])
def test_it_solves_with_a_models_curvature(case, head):
    c = case("cross_entropy", head, weighted=True, n=200)
    A = Damped(GaussNewton(c.objective, c.rows), 0.05)
    solver = LiSSA(1e-5, 20_000)
    state = solver.prepare(A)
    assert 0 < state.batch < 100
    v = rhs(A.dim)
    exact = torch.linalg.solve(A.to_dense(), v)
    assert (solver.solve(state, v).value - exact).norm() < 1e-3 * exact.norm()


def test_a_matrix_without_rows_is_iterated_with_as_it_is():
    A = Damped(Dense(torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))), 0.5)
    state = LiSSA().prepare(A)
    assert state.batch == 0
    assert state.scale == pytest.approx(4.545, rel=1e-3)
    assert LiSSA().solve(state, torch.eye(3, dtype=torch.float64)).residual <= 1e-3
