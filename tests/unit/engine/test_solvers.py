"""One contract for every solver: each agrees with Cholesky to the residual it reports, and hides nothing."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Damped, Dense, Estimate
from undue_service.engine.solvers import Arnoldi, Cholesky, ConjugateGradient, LiSSA


@dataclass
class Moments:
    """(1/n) Σ x xᵀ + diag, over rows that can be taken singly."""

    x: torch.Tensor
    diagonal: torch.Tensor

    @property
    def dim(self):
        return self.x.shape[1]

    @property
    def rows(self):
        return len(self.x)

    def of(self, rows):
        return Moments(self.x[rows], self.diagonal)

    def matmat(self, V):
        return self.x.T @ (self.x @ V) / len(self.x) + self.diagonal[:, None] * V

    def to_dense(self):
        return self.x.T @ self.x / len(self.x) + torch.diag(self.diagonal)

    def mean_eigenvalue(self):
        return Estimate(float(self.to_dense().diagonal().mean()))


SOLVERS = {
    "cholesky": Cholesky(),
    "cg": ConjugateGradient(1e-9),
    "lissa": LiSSA(1e-6, 50_000),
    "arnoldi, all": Arnoldi(1000),
    "arnoldi, few": Arnoldi(3),
}
EXACT = [name for name in SOLVERS if name != "arnoldi, few"]


@st.composite
def systems(draw, least=1):
    """(A, rhs) with A positive definite: a matrix, or a mean over rows with a known diagonal, both damped or not."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    P, K = draw(st.integers(least, 24)), draw(st.integers(1, 5))
    decay = draw(st.sampled_from([0.0, 0.5, 1.5]))
    scales = torch.arange(1, P + 1, dtype=torch.float64) ** -decay * 10 ** draw(st.floats(-2, 2))
    if draw(st.booleans()):
        Q = torch.linalg.qr(torch.randn(P, P, dtype=torch.float64, generator=generator))[0]
        A = Dense(Q @ torch.diag(scales) @ Q.T)
    else:
        n = draw(st.integers(1, 300))
        x = torch.randn(n, P, dtype=torch.float64, generator=generator) * scales.sqrt()
        floor = torch.rand(P, dtype=torch.float64, generator=generator) + 0.5
        A = Moments(x, 0.05 * float(scales[0]) * floor)
    damping = draw(st.sampled_from([0.0, 0.1])) * float(scales[0])
    rhs = torch.randn(P, K, dtype=torch.float64, generator=generator) * 10 ** draw(st.floats(-6, 6))
    return Damped(A, damping) if damping or draw(st.booleans()) else A, rhs


@pytest.mark.parametrize("name", SOLVERS)
@settings(max_examples=40, deadline=None)
@given(system=systems())
def test_each_agrees_with_cholesky_to_the_residual_it_reports(name, system):
    A, rhs = system
    solution = SOLVERS[name].solve(SOLVERS[name].prepare(A), rhs)
    exact = torch.linalg.solve(A.to_dense(), rhs)
    measured = (A.to_dense() @ solution.value - rhs).norm(dim=0) / rhs.norm(dim=0)
    torch.testing.assert_close(solution.residuals, measured, rtol=1e-3, atol=1e-12)
    assert solution.residual == float(solution.residuals.max())
    least = float(torch.linalg.eigvalsh(A.to_dense())[0])
    error = (solution.value - exact).norm(dim=0)
    assert (error <= (measured + 1e-12) * rhs.norm(dim=0) / least).all()
    assert solution.matvecs >= rhs.shape[1]
    if name in EXACT or len(rhs) <= 3:
        assert solution.status == "converged"
        assert solution.residual <= getattr(SOLVERS[name], "tolerance", 1e-9)
    else:
        assert solution.status.startswith("truncated: ")


@pytest.mark.parametrize("name", SOLVERS)
def test_a_zero_right_hand_side_has_a_zero_solution(name):
    rhs = torch.randn(12, 3, dtype=torch.float64)
    rhs[:, 1] = 0
    A = Damped(Dense(torch.diag(torch.arange(1, 13, dtype=torch.float64))), 0.5)
    solution = SOLVERS[name].solve(SOLVERS[name].prepare(A), rhs)
    assert (solution.value[:, 1] == 0).all()
    assert solution.residuals[1] == 0
    assert torch.isfinite(solution.value).all()


def matrix(values, seed):
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator))[0]
    return Dense(Q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ Q.T)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("name", SOLVERS)
def test_negative_curvature_is_refused_with_a_damping_that_is_enough(name, damping, seed):
    A = matrix([-0.5, *torch.linspace(0.5, 3, 11).tolist()], seed)
    rhs = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    solver = SOLVERS[name]
    with pytest.raises(FailedPrecondition, match="damping") as error:
        solver.solve(solver.prepare(Damped(A, damping)), rhs)
    assert error.value.reason is Reason.HESSIAN_NOT_POSITIVE_DEFINITE
    assert float(error.value.metadata["smallest_eigenvalue"]) == pytest.approx(damping - 0.5, abs=0.05)
    enough = float(error.value.metadata["sufficient_damping"])
    solver.solve(solver.prepare(Damped(A, enough)), rhs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", EXACT)
def test_singular_is_refused(name, seed):
    A = matrix([0.0, *torch.linspace(0.5, 3, 11).tolist()], seed)
    rhs = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    solver = SOLVERS[name]
    with pytest.raises(FailedPrecondition, match="l2") as error:
        solver.solve(solver.prepare(A), rhs)
    assert error.value.reason is Reason.HESSIAN_SINGULAR
    enough = float(error.value.metadata["sufficient_damping"])
    assert 0 < enough < 1e-4


def test_a_truncation_of_something_singular_says_what_it_left_out():
    A = matrix([0.0, *torch.linspace(0.5, 3, 11).tolist()], 0)
    solution = Arnoldi(3).solve(Arnoldi(3).prepare(A), torch.ones(12, 1, dtype=torch.float64))
    assert solution.status.startswith("truncated: 3 of 12 eigenpairs")
    assert solution.residual > 0.1


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("where", ["matrix", "rhs"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_an_error_and_never_an_answer(name, where, value):
    A, rhs = torch.eye(5, dtype=torch.float64), torch.ones(5, 2, dtype=torch.float64)
    (A if where == "matrix" else rhs)[1, 1] = value
    solver = SOLVERS[name]
    with pytest.raises(FailedPrecondition) as error:
        solver.solve(solver.prepare(Damped(Dense(A), 1.0)), rhs)
    assert error.value.reason is Reason.NON_FINITE_RESULT
