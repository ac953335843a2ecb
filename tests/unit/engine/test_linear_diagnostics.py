"""Leverage, Cook's distance and DFBETA against statsmodels, against fits without the row, and against their meaning."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.heads.newton import Newton
from undue_service.engine.linear_diagnostics import linear_diagnostics
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.newton_retraining import NewtonRefits
from undue_service.engine.retraining.retrain import retrain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import statsmodels.api as sm

N, D = 40, 3


@pytest.fixture(scope="module")
def linear(program):
    """linear(loss, outputs=1, l2=0, exclude=(), weighted=False) → objective at its minimum, rows, x̃, y, w."""

    def make(loss, outputs=1, l2=0.0, exclude=(), weighted=False, n=N):
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(n, D, generator=generator, dtype=torch.float64)
        x[3] *= 4  # a row of high leverage
        signal = x @ torch.randn(D, outputs, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
        y = signal + noise
        if loss == "binary_logistic":
            y = (signal[:, 0] + 2 * noise[:, 0] > 0).to(torch.int64)
        elif loss == "cross_entropy":
            y = (signal + noise).argmax(dim=1)
        w = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64) if weighted else None
        rows = TensorRows({"x": x}, y, w)
        away = Objective(program(nn.Linear(D, outputs), x[:3]), ObjectiveSpec(loss, l2, exclude))
        refits = NewtonRefits(away, rows, rows, [0], newton=Newton(1e-11))
        refits.baseline()
        star = away.space.unflatten(away.head.to_theta(refits._star.T))
        objective = Objective(replace(away.program, parameters=star), away.spec)
        features = torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], 1)
        return objective, rows, features.numpy(), y.numpy(), None if w is None else w.numpy()

    return make


def coefficients(objective, theta):
    """θ's numbers, (…, P), as statsmodels orders them for one output: features, then the constant."""
    return np.asarray(theta)[..., objective.head.positions[0].numpy()]


@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_is_that_of_statsmodels(linear, weighted):
    objective, rows, X, y, w = linear("squared_error", weighted=weighted)
    found = linear_diagnostics(objective, rows, dfbeta=True)
    root = np.sqrt(w) if weighted else np.ones(N)
    fit = sm.OLS(root * y[:, 0], root[:, None] * X).fit()
    reference = fit.get_influence()
    np.testing.assert_allclose(coefficients(objective, objective.theta), fit.params, atol=1e-10)
    np.testing.assert_allclose(found.leverage, reference.hat_matrix_diag, rtol=1e-8, atol=1e-8)
    assert found.parameters == pytest.approx(D + 1, abs=1e-9)
    assert found.variance == pytest.approx(fit.scale, rel=1e-9)
    np.testing.assert_allclose(coefficients(objective, found.dfbeta), reference.dfbeta, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.cooks_distance, reference.cooks_distance[0], rtol=1e-8, atol=1e-8)


def test_a_logistic_regression_is_that_of_statsmodels(linear):
    """Pregibon's one step."""
    objective, rows, X, y, _ = linear("binary_logistic")
    found = linear_diagnostics(objective, rows, dfbeta=True)
    fit = sm.GLM(y, X, family=sm.families.Binomial()).fit(tol=1e-14)
    reference = fit.get_influence(observed=False)
    np.testing.assert_allclose(found.leverage, reference.hat_matrix_diag, atol=1e-8)
    np.testing.assert_allclose(found.cooks_distance, reference.cooks_distance[0], rtol=1e-6, atol=1e-8)
    assert found.variance == 1
    exact = np.stack(
        [
            fit.params - sm.GLM(y[k], X[k], family=sm.families.Binomial()).fit(tol=1e-12).params
            for k in (np.arange(N) != i for i in range(N))
        ]
    )
    near = coefficients(objective, found.dfbeta)
    assert np.corrcoef(near.ravel(), exact.ravel())[0, 1] > 0.99
    assert abs(near - exact).max() < 0.35 * abs(exact).max()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("exclude", [(), ("bias",)], ids=["l2", "bias excluded"])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_the_fit_without_the_row_with_n_kept(linear, outputs, exclude, weighted):
    """θ̂_(i) = argmin (1/n) Σ_{j≠i} w_j ℓ_j + l2/2 ‖mask ∘ θ‖², solved anew."""
    objective, rows, X, y, w = linear("squared_error", outputs, l2=0.3, exclude=exclude, weighted=weighted)
    w = np.ones(N) if w is None else w
    found = linear_diagnostics(objective, rows, dfbeta=True)
    penalty = 0.3 * np.diag([1.0] * D + [0.0 if exclude else 1.0])

    def solved(weights):
        return np.linalg.solve((X.T * weights) @ X / N + penalty, (X.T * weights) @ y / N)  # (d, C)

    theta = solved(w)
    hat = np.einsum("ij,jk,ik->i", X, np.linalg.inv((X.T * w) @ X / N + penalty), X) * w / N
    np.testing.assert_allclose(found.leverage, outputs * hat, rtol=1e-9)
    p = outputs * hat.sum()
    s2 = (w[:, None] * (X @ theta - y) ** 2).sum() / (N * outputs - p)
    assert (found.parameters, found.variance) == pytest.approx((p, s2), rel=1e-9)
    for i in range(N):
        kept = w.copy()
        kept[i] = 0
        change = theta - solved(kept)
        own = objective.head.from_theta(torch.as_tensor(found.dfbeta[i])).numpy().T
        np.testing.assert_allclose(own, change, rtol=1e-8, atol=1e-9)
        cook = (w[:, None] * (X @ change) ** 2).sum() / (p * s2)
        assert found.cooks_distance[i] == pytest.approx(cook, rel=1e-8)


def test_ridge_is_what_retraining_finds(linear):
    objective, rows, *_ = linear("squared_error", 2, l2=0.3)
    found = linear_diagnostics(objective, rows, dfbeta=True)
    measured = retrain(objective, rows, rows, without=[[i] for i in range(N)])
    batch = objective.place(next(rows.batches(N)))
    before = objective.losses(objective.theta, batch)
    for i in range(N):
        after = objective.losses(objective.theta - torch.as_tensor(found.dfbeta[i]), batch)
        np.testing.assert_allclose((after - before).numpy(), measured.changes[i], atol=1e-8)


def test_softmax_is_one_newton_step(linear):
    """θ̂_(i) ≈ θ̂ − H_(i)⁻¹ ∇R_(i), by automatic differentiation."""
    objective, rows, *_ = linear("cross_entropy", 3, l2=0.1, weighted=True)
    found = linear_diagnostics(objective, rows, dfbeta=True)
    batch = objective.place(next(rows.batches(N)))
    data = torch.autograd.functional.hessian(
        lambda t: (batch.weights * objective.losses(t, batch)).sum() / N, objective.theta
    )
    for i in (0, 3, 17):
        kept = batch.weights.clone()
        kept[i] = 0

        def risk(t, kept=kept):
            return (kept * objective.losses(t, batch)).sum() / N + 0.5 * (objective.l2 * t**2).sum()

        gradient = torch.autograd.functional.jacobian(risk, objective.theta)
        step = torch.linalg.solve(torch.autograd.functional.hessian(risk, objective.theta), gradient)
        np.testing.assert_allclose(found.dfbeta[i], step.numpy(), rtol=1e-7, atol=1e-9)
        assert found.cooks_distance[i] == pytest.approx(float(N * step @ data @ step) / found.parameters, rel=1e-6)
    H = data + torch.diag(objective.l2)
    assert found.parameters == pytest.approx(float(torch.linalg.solve(H, data).trace()), rel=1e-9)


def test_damping_is_added_to_the_hessian(linear):
    plain, rows, X, *_ = linear("squared_error", l2=0.3)
    damped = linear_diagnostics(plain, rows, damping=0.2, dfbeta=True)
    hat = np.einsum("ij,jk,ik->i", X, np.linalg.inv(X.T @ X / N + 0.5 * np.eye(D + 1)), X) / N
    np.testing.assert_allclose(damped.leverage, hat, rtol=1e-9)
    d = damped.diagnostics
    assert (d.damping, d.damping_source, d.method, d.solver) == (0.2, "given", "leverage", "cholesky")
    none = linear_diagnostics(plain, rows)
    assert (none.diagnostics.damping, none.diagnostics.damping_source, none.dfbeta) == (0.0, "convex", None)
    assert none.diagnostics.residual < 1e-10
    assert none.diagnostics.stationarity.gradient_norm < 1e-8


@pytest.mark.parametrize("memory", [20_000, 4_000])
def test_blocks_change_nothing(linear, memory):
    objective, rows, *_ = linear("cross_entropy", 3, l2=0.1)
    whole = linear_diagnostics(objective, rows)
    small = linear_diagnostics(objective, rows, memory_bytes=memory)
    np.testing.assert_allclose(small.leverage, whole.leverage, rtol=1e-10)
    np.testing.assert_allclose(small.cooks_distance, whole.cooks_distance, rtol=1e-9)


def test_the_row_of_high_leverage_stands_out(linear):
    objective, rows, *_ = linear("squared_error")
    assert linear_diagnostics(objective, rows).leverage.argmax() == 3


def test_refusals(linear, case):
    objective, rows, *_ = linear("squared_error")
    with pytest.raises(InvalidArgument, match="damping"):
        linear_diagnostics(objective, rows, damping=-1.0)
    with pytest.raises(ResourceExhausted, match="dfbeta"):
        linear_diagnostics(objective, rows, dfbeta=True, memory_bytes=1000)
    network = case("cross_entropy", head=False)
    with pytest.raises(FailedPrecondition, match=r"parameters=\[") as error:
        linear_diagnostics(network.objective, network.rows)
    assert error.value.reason is Reason.LEVERAGE_UNAVAILABLE


def test_what_is_not_determined_is_refused(linear):
    objective, _, X, y, _ = linear("squared_error")
    x = torch.as_tensor(X[:, :D]).clone()
    x[:, 0] = 0
    with pytest.raises(FailedPrecondition) as error:
        linear_diagnostics(objective, TensorRows({"x": x}, torch.as_tensor(y)))
    assert error.value.reason is Reason.HESSIAN_SINGULAR
    x[5, 0] = 1
    with pytest.raises(FailedPrecondition, match="row 5 alone") as error:
        linear_diagnostics(objective, TensorRows({"x": x}, torch.as_tensor(y)))
    assert error.value.reason is Reason.LEVERAGE_UNAVAILABLE
    fitted = torch.as_tensor(X) @ objective.head.from_theta(objective.theta).T
    with pytest.raises(FailedPrecondition, match="exactly") as error:
        linear_diagnostics(objective, TensorRows({"x": torch.as_tensor(X[:, :D])}, fitted))
    assert error.value.reason is Reason.LEVERAGE_UNAVAILABLE
