"""The Hessian against torch.func, finite differences and itself by other routes."""

import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import (
    Damped,
    Dense,
    EmpiricalFisher,
    Estimate,
    GaussNewton,
    Hessian,
    mean_eigenvalue,
)
from undue_service.engine.data import TensorRows
from unit.engine.test_taps import opened

LOSSES = ["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]


def objective_value(c, theta):
    batch = next(c.rows.batches(1000))
    objective = c.objective
    losses = objective.losses(theta, objective.place(batch))
    weights = torch.ones(len(losses), dtype=torch.float64) if c.weights is None else c.weights
    return (weights * losses).sum() / len(c.x) + 0.5 * (objective.l2 * theta.square()).sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", [True, False], ids=["head", "network"])
@pytest.mark.parametrize("weighted", [False, True])
def test_dense_is_the_hessian_of_the_objective(case, loss, head, weighted):
    c = case(loss, head, weighted=weighted, exclude=("*bias",))
    H = Hessian(c.objective, c.rows).to_dense()
    torch.testing.assert_close(
        H, torch.func.hessian(lambda t: objective_value(c, t))(c.objective.theta), rtol=1e-10, atol=1e-10
    )
    assert torch.equal(H, H.T) or (H - H.T).abs().max() < 1e-15


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parameters", [(), ("weight",), ("bias",)])
def test_the_closed_form_of_a_head_is_the_streamed_product(case, loss, parameters):
    c = case(loss, parameters=parameters, weighted=True)
    hessian = Hessian(c.objective, c.rows)
    by_product = hessian.matmat(torch.eye(hessian.dim, dtype=torch.float64))
    torch.testing.assert_close(hessian.to_dense(), by_product, rtol=1e-10, atol=1e-12)
    assert by_product.abs().max() > 1e-2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parameters", [(), ("weight",), ("bias",)])
def test_the_closed_product_of_a_head_is_the_general_one(case, loss, parameters):
    c = case(loss, parameters=parameters, weighted=True)
    V = torch.randn(c.objective.space.dim, 5, dtype=torch.float64)
    hessian = Hessian(c.objective, c.rows)
    found = hessian.matmat(V)
    general = hessian._block_product(c.objective.place(next(c.rows.batches(100))), V) / 30
    torch.testing.assert_close(found, general + c.objective.l2[:, None] * V, rtol=1e-10, atol=1e-12)
    small = Hessian(c.objective, c.rows, memory_bytes=4000)
    torch.testing.assert_close(small.matmat(V), found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", [True, False], ids=["head", "network"])
def test_the_mean_eigenvalue_of_a_small_model_is_exact(case, loss, head):
    c = case(loss, head, weighted=True, exclude=("*bias",))
    hessian = Hessian(c.objective, c.rows)
    found = hessian.mean_eigenvalue()
    assert found.value == pytest.approx(float(hessian.to_dense().diagonal().mean()), rel=1e-12)
    assert found.standard_error == 0


@pytest.mark.parametrize("decay", [0.5, 2.0])
def test_the_mean_eigenvalue_of_a_large_one_is_estimated_with_an_honest_error(decay):
    generator = torch.Generator().manual_seed(5)
    Q = torch.linalg.qr(torch.randn(1200, 1200, dtype=torch.float64, generator=generator))[0]
    values = torch.arange(1, 1201, dtype=torch.float64) ** -decay
    values[-100:] *= -1
    A = Dense(Q @ torch.diag(values) @ Q.T)
    found = mean_eigenvalue(A, Q)
    assert 0 < abs(found.value - float(values.mean())) < 4 * found.standard_error
    assert found.standard_error < 0.05 * float(values.mean())
    assert mean_eigenvalue(A, Q) == found, "the seed is fixed"


def test_it_is_the_derivative_of_the_gradient_by_finite_differences(case):
    c = case("cross_entropy", head=False)
    theta, v = (
        c.objective.theta,
        torch.randn(c.objective.space.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    gradient = torch.func.grad(lambda t: objective_value(c, t))
    step = 1e-5
    difference = (gradient(theta + step * v) - gradient(theta - step * v)) / (2 * step)
    torch.testing.assert_close(Hessian(c.objective, c.rows).matmat(v[:, None])[:, 0], difference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("head", [True, False], ids=["head", "network"])
def test_a_small_budget_changes_nothing_and_is_heard_of(case, head):
    c = case("cross_entropy", head)
    heard = []
    small = Hessian(c.objective, c.rows, memory_bytes=4000, progress=lambda *args: heard.append(args)).to_dense()
    torch.testing.assert_close(small, Hessian(c.objective, c.rows).to_dense(), rtol=1e-12, atol=1e-14)
    assert len(heard) > 3
    assert heard[-1] == ("curvature", 30, 30)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)


def test_too_many_parameters_are_refused_with_what_to_do(case):
    c = case("cross_entropy")
    with pytest.raises(FailedPrecondition, match=r"15 parameters.*limit is 10.*parameters=.*cg") as error:
        Hessian(c.objective, c.rows, parameter_limit=10).to_dense()
    assert error.value.reason is Reason.TOO_MANY_PARAMETERS


def test_damping_adds_to_the_diagonal_and_leaves_the_curvature_alone():
    A = torch.tensor([[2.0, 1], [1, 3]], dtype=torch.float64)
    damped = Damped(Dense(A), 0.5)
    assert damped.to_dense().tolist() == [[2.5, 1], [1, 3.5]]
    assert damped.matmat(torch.eye(2, dtype=torch.float64)).tolist() == [[2.5, 1], [1, 3.5]]
    assert A.tolist() == [[2, 1], [1, 3]]
    assert Dense(A).mean_eigenvalue() == Estimate(2.5)


@pytest.mark.parametrize("curvature", [Hessian, GaussNewton])
def test_the_row_of_the_padding_is_a_constant_in_every_derivative(curvature):
    """As it is in training; the operator itself sees to that in reverse mode only."""

    class Sequence(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table, self.out = torch.nn.Embedding(5, 3, padding_idx=2), torch.nn.Linear(3, 3)
            self.table.weight.data[2] = 1.0

        def forward(self, x):
            return self.out(torch.tanh(self.table(x)).mean(1))

    ids = torch.randint(5, (12, 4), generator=torch.Generator().manual_seed(1))
    assert (ids == 2).any()
    objective, rows = opened(Sequence(), ids, l2=0.0), TensorRows({"x": ids}, torch.arange(12) % 3)
    by_product = curvature(objective, rows).matmat(torch.eye(objective.space.dim, dtype=torch.float64))
    torch.testing.assert_close(by_product, by_product.T, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(curvature(objective, rows).to_dense(), by_product, rtol=1e-10, atol=1e-12)
    start = objective.space.slice("table.weight").start
    padding = slice(start + 6, start + 9)
    assert (by_product[padding] == 0).all()
    assert by_product[start : start + 3, -3:].abs().max() > 1e-4


@pytest.mark.parametrize("curvature", [Hessian, GaussNewton, EmpiricalFisher])
def test_where_memory_runs_out_a_product_goes_on_with_fewer_rows(case, curvature, monkeypatch):
    c = case("cross_entropy", head=False, weighted=True)
    wanted = curvature(c.objective, c.rows)
    V = torch.randn(wanted.dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product, dense, mean = wanted.matmat(V), wanted.to_dense(), wanted.mean_eigenvalue()
    outputs, met = type(c.objective.program).evaluate, []

    def full(program, graph, parameters, inputs, watched=()):
        rows = len(next(iter(inputs.values())))
        met.append(rows)
        if rows > 8:
            raise torch.OutOfMemoryError(f"{rows} rows")
        return outputs(program, graph, parameters, inputs, watched)

    monkeypatch.setattr(type(c.objective.program), "evaluate", full)
    torch.testing.assert_close(curvature(c.objective, c.rows).matmat(V), product, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(curvature(c.objective, c.rows).to_dense(), dense, rtol=1e-12, atol=1e-14)
    assert curvature(c.objective, c.rows).mean_eigenvalue().value == pytest.approx(mean.value, rel=1e-12)
    assert max(met) == 30
