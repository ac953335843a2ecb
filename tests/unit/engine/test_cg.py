"""Conjugate gradients: they solve, they measure their own error, and they refuse what cannot be solved."""

import math

import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.curvature import Damped, Dense
from undue_service.engine.solvers import Cholesky, ConjugateGradient
from undue_service.engine.solvers.base import relative_residuals
from undue_service.engine.solvers.lanczos import ritz_range


def with_eigenvalues(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator))[0]
    return Dense(q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T)


class Counted:
    """A curvature that remembers how many columns each product had."""

    def __init__(self, curvature):
        self.inner, self.columns = curvature, []

    @property
    def dim(self):
        return self.inner.dim

    def matmat(self, V):
        self.columns.append(V.shape[1])
        return self.inner.matmat(V)

    def to_dense(self):
        return self.inner.to_dense()


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8, 1e-12])
def test_it_solves_to_the_tolerance_and_reports_each_columns_true_residual(tolerance):
    A = Counted(with_eigenvalues(torch.logspace(-1, 2, 60, dtype=torch.float64)))
    rhs = torch.randn(60, 7, dtype=torch.float64) * torch.logspace(-8, 8, 7, dtype=torch.float64)
    rhs[:, 3] = 0
    solution = ConjugateGradient(tolerance).solve(A, rhs)
    assert (solution.residuals <= tolerance).all()
    taken = list(A.columns)
    torch.testing.assert_close(solution.residuals, relative_residuals(A, solution.value, rhs), rtol=0.01, atol=1e-14)
    assert solution.residual == float(solution.residuals.max()) > 0
    assert solution.residuals[3] == 0
    assert (solution.value[:, 3] == 0).all()
    assert solution.matvecs == sum(taken)
    exact = Cholesky().solve(Cholesky().prepare(A.inner), rhs).value
    error = (solution.value - exact).norm(dim=0) / exact.norm(dim=0).clamp(min=1e-300)
    assert error.max() < 1e3 * tolerance, "the error is at most κ times the residual"


def test_a_column_that_has_converged_leaves_the_pass():
    A = Counted(Dense(torch.diag(torch.linspace(1, 100, 40, dtype=torch.float64))))
    rhs = torch.randn(40, 3, dtype=torch.float64)
    rhs[:, 1] = torch.eye(40, dtype=torch.float64)[5]  # an eigenvector: one iteration
    solution = ConjugateGradient().solve(A, rhs)
    assert A.columns[0] == 3
    assert A.columns[1] == 2
    assert (solution.residuals <= 1e-8).all()


def test_columns_do_not_depend_on_their_company():
    A = with_eigenvalues(torch.logspace(-2, 1, 30, dtype=torch.float64))
    rhs = torch.randn(30, 6, dtype=torch.float64)
    together = ConjugateGradient(1e-12).solve(A, rhs).value
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    alone = torch.cat([ConjugateGradient(1e-12).solve(A, rhs[:, j : j + 1]).value for j in range(6)], 1)
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ConjugateGradient(1e-12).solve(A, rhs[:, order]).value, together[:, order])


def test_a_block_takes_far_fewer_passes_than_its_columns_one_by_one():
    A = Counted(with_eigenvalues(torch.logspace(-2, 1, 200, dtype=torch.float64)))
    rhs = torch.randn(200, 20, dtype=torch.float64)
    ConjugateGradient().solve(A, rhs)
    together = len(A.columns)
    A.columns.clear()
    ConjugateGradient().solve(A, rhs[:, :1])
    assert together <= 18, "twenty directions at a time, of 200"
    assert len(A.columns) > 4 * together


@pytest.mark.parametrize("columns", [1, 2, 10, 25])
@pytest.mark.parametrize("seed", range(12))
def test_a_block_converges_where_the_matrix_is_conditioned_badly(columns, seed):
    """κ = 1e8: a recurrence that keeps orthonormal directions rather than residuals fails for every block here."""
    A = with_eigenvalues(torch.logspace(-6, 2, 60, dtype=torch.float64), seed)
    rhs = torch.randn(60, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    counted = Counted(A)
    solution = ConjugateGradient(1e-6, 3000).solve(counted, rhs)
    assert (relative_residuals(A, solution.value, rhs) <= 1.01e-6).all()
    if columns >= 10:
        assert len(counted.columns) < 300, "one column takes about 1,000"


@pytest.mark.parametrize("columns", [1, 8])
def test_a_preconditioned_block_converges_where_the_matrix_is_conditioned_badly(columns):
    scales = torch.logspace(-3, 3, 80, dtype=torch.float64)
    inner = with_eigenvalues(torch.linspace(1, 9, 80, dtype=torch.float64)).matrix
    A = Counted(Dense(scales[:, None] * inner * scales))
    rhs = torch.randn(80, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(columns))
    solution = ConjugateGradient(1e-8, 300, preconditioner=lambda V: V / scales[:, None].square()).solve(A, rhs)
    assert (relative_residuals(A.inner, solution.value, rhs) <= 1e-8).all()


def test_dependent_right_hand_sides_do_not_break_it_down():
    A = Counted(with_eigenvalues(torch.logspace(-1, 2, 80, dtype=torch.float64)))
    few = torch.randn(80, 3, dtype=torch.float64)
    rhs = few @ torch.randn(3, 12, dtype=torch.float64)
    solution = ConjugateGradient(1e-10).solve(A, rhs)
    assert (solution.residuals <= 1e-10).all()
    assert max(A.columns[:-1]) == 3, "twelve right-hand sides of rank three are a block of three"
    expected = torch.linalg.solve(A.inner.matrix, rhs)
    assert (solution.value - expected).norm() < 1e-6 * expected.norm()


def test_more_right_hand_sides_than_dimensions_take_one_iteration():
    A = Counted(with_eigenvalues(torch.logspace(-1, 2, 10, dtype=torch.float64)))
    rhs = torch.randn(10, 35, dtype=torch.float64)
    solution = ConjugateGradient().solve(A, rhs)
    assert A.columns == [10, 35], "and a product that measures"
    torch.testing.assert_close(solution.value, torch.linalg.solve(A.inner.matrix, rhs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("columns", [1, 4])
def test_a_preconditioner_saves_iterations_and_changes_no_answer(columns):
    scales = torch.logspace(-1, 1, 120, dtype=torch.float64)
    inner = with_eigenvalues(torch.linspace(1, 4, 120, dtype=torch.float64)).matrix
    A = Counted(Dense(scales[:, None] * inner * scales))
    rhs = torch.randn(120, columns, dtype=torch.float64)
    plain = ConjugateGradient(1e-9, 100_000).solve(A, rhs)
    before = len(A.columns)
    A.columns.clear()
    solution = ConjugateGradient(1e-9, preconditioner=lambda V: V / scales[:, None].square()).solve(A, rhs)
    assert (solution.residuals <= 1e-9).all()
    assert len(A.columns) < 0.6 * before
    exact = torch.linalg.solve(A.inner.matrix, rhs)
    weighted = scales[:, None] * (solution.value - exact)
    assert weighted.norm() < 1e-4 * (scales[:, None] * exact).norm()
    assert (plain.residuals <= 1e-9).all()


def test_the_scale_of_a_gradient_does_not_matter():
    A = with_eigenvalues([1.0, 2.0, 30.0])
    rhs = torch.randn(3, 1, dtype=torch.float64)
    small = ConjugateGradient().solve(A, rhs * 1e-150).value
    torch.testing.assert_close(small * 1e150, ConjugateGradient().solve(A, rhs).value)


def test_a_limit_that_is_met_is_an_error_that_names_a_damping_that_is_enough():
    values = torch.logspace(-9, 0, 300, dtype=torch.float64)
    A, rhs = with_eigenvalues(values), torch.randn(300, 4, dtype=torch.float64)
    heard = []
    solver = ConjugateGradient(1e-8, 50, lambda *told: heard.append(told))
    with pytest.raises(FailedPrecondition, match=r"50 iterations.*residual.*damping=.*max_iterations=500") as error:
        solver.solve(Damped(A, 1e-6), rhs)
    assert error.value.reason is Reason.SOLVER_NOT_CONVERGED
    assert (error.value.metadata["iterations"], error.value.metadata["unsolved"]) == ("50", "4")
    assert float(error.value.metadata["residual"]) > 1e-8
    assert len(heard) == 50
    enough = float(error.value.metadata["sufficient_damping"])
    assert 1e-6 < enough < 1
    assert solver.solve(Damped(A, enough), rhs).residual <= 1e-8
    assert heard[-1] == (4, 4)


@pytest.mark.parametrize("seed", range(4))
def test_negative_curvature_is_named_with_a_damping_that_is_enough(seed):
    A = with_eigenvalues([-0.5, -0.01, *torch.linspace(0.1, 10, 50).tolist()], seed)
    rhs = torch.randn(52, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(FailedPrecondition, match=r"curvature -.* met.*damping 0\.1 included") as error:
        ConjugateGradient().solve(Damped(A, 0.1), rhs)
    assert error.value.reason is Reason.HESSIAN_NOT_POSITIVE_DEFINITE
    assert float(error.value.metadata["curvature"]) < 0
    assert float(error.value.metadata["smallest_eigenvalue"]) == pytest.approx(-0.4, abs=0.01)
    enough = float(error.value.metadata["sufficient_damping"])
    assert ConjugateGradient().solve(Damped(A, enough), rhs).residual <= 1e-8


def test_no_curvature_at_all_is_singular():
    A = Dense(torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)))
    with pytest.raises(FailedPrecondition, match="l2") as error:
        ConjugateGradient().solve(A, torch.ones(3, 1, dtype=torch.float64))
    assert error.value.reason is Reason.HESSIAN_SINGULAR


@pytest.mark.parametrize("where", ["matrix", "rhs"])
def test_nan_is_an_error_and_never_an_answer(where):
    A, rhs = torch.eye(3, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    (A if where == "matrix" else rhs)[1, 1] = math.nan
    with pytest.raises(FailedPrecondition) as error:
        ConjugateGradient().solve(Dense(A), rhs)
    assert error.value.reason is Reason.NON_FINITE_RESULT


def test_ritz_values_are_extreme_eigenvalues_from_inside():
    A = with_eigenvalues([-3.0, *torch.linspace(1, 5, 99).tolist()])
    smallest, largest = ritz_range(A, torch.randn(100, dtype=torch.float64))
    assert -3.0 - 1e-12 <= smallest < -2.99
    assert 4.9 < largest <= 5 + 1e-12
    one = Dense(torch.tensor([[-2.0]], dtype=torch.float64))
    assert ritz_range(one, torch.ones(1, dtype=torch.float64)) == (-2.0, -2.0)
    assert ritz_range(Dense(torch.eye(5, dtype=torch.float64)), torch.ones(5, dtype=torch.float64)) == (
        pytest.approx(1),
        pytest.approx(1),
    )


def test_a_tolerance_below_rounding_is_given_up_early():
    A = Counted(with_eigenvalues(torch.logspace(-6, 2, 60, dtype=torch.float64)))
    with pytest.raises(FailedPrecondition, match="rounding allows no smaller residual") as error:
        ConjugateGradient(1e-15, 10_000).solve(A, torch.randn(60, 2, dtype=torch.float64))
    assert error.value.reason is Reason.SOLVER_NOT_CONVERGED
    assert int(error.value.metadata["iterations"]) < 10_000
    assert float(error.value.metadata["residual"]) < 1e-6


def test_the_method_says_what_it_did(case):
    c = case("cross_entropy", head=False, l2=1.0)
    heard = []
    found = influence(
        c.objective, c.rows, c.rows, method="cg", memory_bytes=200_000, progress=lambda *a: heard.append(a)
    ).diagnostics
    exact = influence(c.objective, c.rows, c.rows).diagnostics
    assert found.damping == pytest.approx(exact.damping, rel=1e-12), "λ means the same"
    assert (found.solver, found.solver_status, found.scale, found.leverage_correction) == (
        "cg",
        "converged",
        "removal",
        False,
    )
    assert 0 < found.residual <= 1e-8
    assert found.matvecs > len(c.x), "iterations, and the product that measures the residual"
    assert list(dict.fromkeys(stage for stage, _, _ in heard)) == ["stationarity", "curvature", "solve", "scores"]
    one = influence(c.objective, c.rows, c.rows, rows=[3], method="cg", tolerance=1e-3).diagnostics
    assert 1e-8 < one.residual <= 1e-3
    own = self_influence(c.objective, c.rows, method="cg").diagnostics
    assert 0 < own.residual <= 1e-8, "thirty directions span all 27 dimensions: one iteration ends it"


def test_a_network_that_was_not_trained_meets_negative_curvature(case):
    c = case("cross_entropy", head=False, l2=0.0)
    with pytest.raises(FailedPrecondition) as error:
        influence(c.objective, c.rows, c.rows, method="cg", damping=0.0)
    assert error.value.reason is Reason.HESSIAN_NOT_POSITIVE_DEFINITE
    enough = float(error.value.metadata["sufficient_damping"])
    influence(c.objective, c.rows, c.rows, method="cg", damping=enough)


def test_softmax_without_l2_is_solved_by_exact_and_cg_alike_only_with_damping(case):
    c = case("cross_entropy", l2=0.0)
    a, b = (
        influence(c.objective, c.rows, c.rows, method=m, leverage_correction=False, top_k=None) for m in ("exact", "cg")
    )
    assert a.diagnostics.damping == pytest.approx(b.diagnostics.damping, rel=1e-12)
    assert b.diagnostics.damping_source == "mean_eigenvalue"
    assert abs(a.scores - b.scores).max() < 1e-5 * abs(a.scores).max()
