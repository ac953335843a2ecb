"""Newton steps on reweighted objectives: against dense algebra, and against the two routes to them."""

import pytest
import torch
from torch.func import grad, hessian

from undue_service.engine.curvature import Damped, Dense, Hessian
from undue_service.engine.group_response import GroupResponse
from undue_service.engine.leverage import leverage
from undue_service.engine.solvers import Cholesky

LOSSES = ("cross_entropy", "binary_logistic", "squared_error")


def written_out(case, rows, factor, damping, gradients):
    """−(f−1) ∇mᵀ H_f⁻¹ g_S with every term from autograd."""
    objective, n = case.objective, len(case.x)
    w = torch.ones(n, dtype=torch.float64) if case.weights is None else case.weights

    def total(theta, weights):
        batch = objective.place(next(iter(case.rows.batches(n))))
        return weights @ objective.losses(theta, batch) / n

    chosen = torch.zeros(n, dtype=torch.float64)
    chosen[list(rows)] = w[list(rows)]
    H = hessian(total)(objective.theta, w + (factor - 1) * chosen)
    H += torch.diag(objective.l2 + damping)
    g = grad(total)(objective.theta, chosen)
    return (1 - factor) * gradients.T @ torch.linalg.solve(H, g)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [(3,), (1, 4), tuple(range(0, 30, 2))])
def test_it_is_one_newton_step_on_the_reweighted_objective(case, loss, weighted, rows):
    one = case(loss, weighted=weighted)
    objective, damping, factors = one.objective, 0.01, (0.0, 0.5, 2.0, 7.0)
    state = Cholesky().prepare(Damped(Dense(Hessian(objective, one.rows).to_dense()), damping))
    gradients = torch.randn(objective.space.dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    response = GroupResponse(objective, one.rows, state)
    want = torch.stack([written_out(one, rows, factor, damping, gradients) for factor in factors])
    torch.testing.assert_close(response.changes(rows, factors, gradients), want, rtol=1e-9, atol=1e-12)
    for route in (response._by_rows, response._by_parameters):
        torch.testing.assert_close(route(rows, factors, gradients), want, rtol=1e-9, atol=1e-12)


def test_memory_decides_nothing_but_the_blocks(case):
    one = case("cross_entropy", weighted=True)
    state = Cholesky().prepare(Damped(Dense(Hessian(one.objective, one.rows).to_dense()), 0.1))
    gradients = torch.eye(one.objective.space.dim, dtype=torch.float64)
    found = [
        GroupResponse(one.objective, one.rows, state, memory_bytes=memory)._by_rows((0, 5, 9, 11), [0.0], gradients)
        for memory in (1, 2**30)
    ]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_removing_one_row_is_the_leverage_correction(case):
    one = case("cross_entropy", weighted=True)
    objective = one.objective
    state = Cholesky().prepare(Damped(Dense(Hessian(objective, one.rows).to_dense()), 0.0))
    corrected = leverage(objective, one.rows, torch.cholesky_inverse(state.factor))
    gradients = torch.randn(objective.space.dim, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s = Cholesky().solve(state, gradients).value
    batch = objective.place(next(iter(one.rows.batches(30))))
    x, _ = objective.head.evaluate(batch.inputs)
    step = objective.head.to_theta(corrected.residuals[7][:, None] * x[7])
    want = (s[:, 0] @ step) * one.weights[7] / 30
    found = GroupResponse(objective, one.rows, state).changes([7], [0.0], gradients)
    assert float(found) == pytest.approx(float(want), rel=1e-10)


def test_a_factor_of_one_changes_nothing(case):
    one = case("binary_logistic")
    state = Cholesky().prepare(Damped(Dense(Hessian(one.objective, one.rows).to_dense()), 0.0))
    gradients = torch.eye(one.objective.space.dim, dtype=torch.float64)
    assert not GroupResponse(one.objective, one.rows, state).changes([1, 2], [1.0], gradients).any()
