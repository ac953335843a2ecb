"""The dense solver: it solves, it measures its own error, and it refuses what cannot be solved."""

import math

import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.engine.curvature import Damped, Dense, Estimate
from undue_service.engine.damping import resolve_damping
from undue_service.engine.solvers import Cholesky
from undue_service.engine.solvers.base import relative_residuals


def with_eigenvalues(values, seed=0):
    q = torch.linalg.qr(
        torch.randn(len(values), len(values), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )[0]
    return Dense(q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T)


def test_it_solves_and_reports_the_residual_of_what_it_returns():
    A = with_eigenvalues([1e-4, 1.0, 5.0, 10.0])
    rhs = torch.randn(4, 3, dtype=torch.float64)
    rhs[:, 1] = 0
    solver = Cholesky()
    solution = solver.solve(solver.prepare(A), rhs)
    torch.testing.assert_close(A.matrix @ solution.value, rhs, rtol=1e-9, atol=1e-9)
    assert solution.status == "converged"
    assert 0 < solution.residual < 1e-10
    assert solution.residuals.tolist()[1] == 0
    assert solution.matvecs == 3
    assert float(relative_residuals(A, solution.value + 1, rhs).min()) > 0.1, "a wrong solution has a residual"


@pytest.mark.parametrize(
    ("smallest", "reason"),
    [
        (-0.5, Reason.HESSIAN_NOT_POSITIVE_DEFINITE),
        (0.0, Reason.HESSIAN_SINGULAR),
        (1e-16, Reason.HESSIAN_SINGULAR),
        (-1e-16, Reason.HESSIAN_SINGULAR),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_positive_definite_is_refused_with_a_damping_that_is_enough(smallest, reason, seed):
    A = with_eigenvalues([smallest, 1.0, 2.0, 10.0], seed)
    with pytest.raises(FailedPrecondition, match="damping") as error:
        Cholesky().prepare(A)
    assert error.value.reason is reason
    assert float(error.value.metadata["smallest_eigenvalue"]) == pytest.approx(smallest, abs=1e-14)
    Cholesky().prepare(Damped(A, float(error.value.metadata["sufficient_damping"])))


def test_the_damping_that_is_enough_counts_what_was_given():
    A = with_eigenvalues([-0.5, 1.0, 2.0, 10.0])
    with pytest.raises(FailedPrecondition, match=r"damping 0\.3 included") as error:
        Cholesky().prepare(Damped(A, 0.3))
    assert float(error.value.metadata["sufficient_damping"]) > 0.5
    Cholesky().prepare(Damped(A, float(error.value.metadata["sufficient_damping"])))


def test_ill_conditioned_is_not_singular():
    Cholesky().prepare(with_eigenvalues([1e-9, 1.0, 10.0]))


def test_nan_is_an_error_and_never_an_answer():
    with pytest.raises(FailedPrecondition) as error:
        Cholesky().prepare(Dense(torch.tensor([[math.nan]], dtype=torch.float64)))
    assert error.value.reason is Reason.NON_FINITE_RESULT
    solver = Cholesky()
    state = solver.prepare(with_eigenvalues([1.0, 2.0]))
    with pytest.raises(FailedPrecondition) as error:
        solver.solve(state, torch.tensor([[math.nan], [0.0]], dtype=torch.float64))
    assert error.value.reason is Reason.NON_FINITE_RESULT


def test_the_default_damping_says_where_it_comes_from(case):
    convex, bare, network = (
        case("cross_entropy"),
        case("cross_entropy", exclude=("bias",)),
        case("cross_entropy", head=False),
    )
    assert resolve_damping(0.3, convex.objective, lambda: Estimate(1.0)) == type(
        resolve_damping(0.3, convex.objective, lambda: Estimate(1.0))
    )(0.3, "given")
    found = [resolve_damping(None, c.objective, lambda: Estimate(2.0)) for c in (convex, bare, network)]
    assert [(d.value, d.source) for d in found] == [(0.0, "convex"), (0.2, "mean_eigenvalue"), (0.2, "mean_eigenvalue")]
    with pytest.raises(FailedPrecondition, match="pass damping="):
        resolve_damping(None, network.objective, lambda: Estimate(-1.0))
    for wrong in (-1e-9, math.nan, math.inf):
        with pytest.raises(InvalidArgument, match="damping"):
            resolve_damping(wrong, convex.objective, lambda: Estimate(1.0))
