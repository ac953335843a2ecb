"""`gauss_newton` against the dense float64 matrix, whatever its route; truncation; what it says of itself."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.curvature import Damped
from undue_service.engine.curvature.root import gauss_newton_root, in_dtype
from undue_service.engine.data import TensorRows
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.methods import REGISTRY, Problem
from undue_service.engine.methods.dual import most_rows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.engine.solvers.dual import Dual
from unit.engine import dense
from unit.engine.test_taps import MODELS, opened

EVERY = 10**6  # a rank that keeps all rows, and so takes the dual route


@dataclass
class Drawn:
    """A model and data, as `unit.engine.dense` wants them."""

    objective: Objective
    x: Tensor
    y: Tensor
    weights: Tensor | None = None

    @property
    def rows(self) -> TensorRows:
        return TensorRows({"x": self.x}, self.y, self.weights)


def expected(c, damping, matrix=None):
    """The scores (m, n) of the training rows as test rows."""
    G = dense.gauss_newton(c, damping) if matrix is None else matrix
    g = dense.gradients(c)
    w = torch.ones(len(g), dtype=torch.float64) if c.weights is None else c.weights
    return (w[:, None] / len(g) * (g @ torch.linalg.solve(G, g.T))).T.numpy()


def found(c, **arguments):
    """The scores in float64."""
    lists = influence(c.objective, c.rows, c.rows, method="gauss_newton", top_k=len(c.x), **arguments)
    return dense.lists_to_matrix(lists, len(c.x)), lists.diagnostics


def near(a, b, tolerance=1e-9):
    assert abs(a - b).max() <= tolerance * abs(b).max()


@pytest.mark.parametrize("name", MODELS)
def test_all_rows_are_the_dense_solve_for_every_kind_of_layer(name):
    make, x, _ = MODELS[name]
    torch.manual_seed(0)
    objective = opened(make(), x, decomposed=name == "lstm")
    y = torch.arange(len(x)) % max(2, objective.outputs_per_row)
    c = Drawn(objective, x, y, torch.linspace(0, 2, len(x), dtype=torch.float64))
    scores, diagnostics = found(c, damping=0.3, rank=EVERY)
    near(scores, expected(c, 0.3))
    assert diagnostics.solver == "dual"
    assert diagnostics.residual < 1e-9
    own = self_influence(objective, c.rows, method="gauss_newton", damping=0.3, rank=EVERY)
    near(own.scores, np.diag(scores)[own.train.rows])
    near(found(c, damping=0.3)[0], scores)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_logistic", "squared_error"])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("measurement", ["loss", "logit", "margin"])
def test_every_loss_and_measurement(case, loss, head, measurement):
    if loss == "squared_error" and measurement != "loss":
        return
    c = case(loss, head, weighted=True, exclude=("*bias*",))
    theta = c.objective.theta.clone().requires_grad_()
    batch = c.objective.place(next(c.rows.batches(1000)))
    costs = c.objective.measurement(theta, batch, measurement)
    m = torch.stack([torch.autograd.grad(cost, theta, retain_graph=True)[0] for cost in costs])
    wanted = (m @ torch.linalg.solve(dense.gauss_newton(c, 0.2), dense.gradients(c).T)) * c.weights / len(m)
    near(found(c, damping=0.2, rank=EVERY, measurement=measurement)[0], wanted.numpy())
    mean, _ = found(c, damping=0.2, rank=EVERY, measurement=measurement, aggregate="mean")
    near(mean, wanted.mean(0, keepdim=True).numpy())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_drawn_networks(data):
    """Whatever the layers, groups, biases, parameters, weights, rank and memory: the dense solve of the same rows."""
    seed = data.draw(st.integers(0, 2**20))
    torch.manual_seed(seed)
    classes, n = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 12))
    bias = data.draw(st.booleans())
    if data.draw(st.booleans()):
        groups, kernel = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
        layers = [
            nn.Conv2d(2, 2 * groups, kernel, padding=1, groups=groups, bias=bias),
            nn.Tanh(),
            nn.Conv2d(2 * groups, 2, kernel, bias=bias),
            nn.Tanh(),
            nn.Flatten(),
        ]
        x = torch.randn(n, 2, 4, 4)
    else:
        widths = [3, *data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))]
        layers = [layer for one, two in pairwise(widths) for layer in (nn.Linear(one, two, bias=bias), nn.Tanh())]
        x = torch.randn(n, 3)
    features = nn.Sequential(*layers)(x).shape[1]
    module = nn.Sequential(*layers, nn.Linear(features, classes))
    parameters = data.draw(st.sampled_from([(), ("*weight",), ("0.*",)]))
    exclude = data.draw(st.sampled_from([(), ("*bias*",)]))
    objective = opened(module, x, exclude=exclude, parameters=parameters)
    loss = data.draw(st.sampled_from([objective.spec.name, "squared_error"]))
    objective = Objective(objective.program, ObjectiveSpec(loss, 0.1, exclude), parameters)
    y = torch.randn(n, classes) if loss == "squared_error" else torch.randint(max(2, classes), (n,))
    weights = data.draw(st.sampled_from([None, torch.rand(n, dtype=torch.float64) + 0.1]))
    c = Drawn(objective, x, y, weights)
    rank = data.draw(st.sampled_from([1, 3, EVERY]))
    memory = data.draw(st.sampled_from([2**30, 200_000]))
    scores, diagnostics = found(c, damping=0.05, rank=rank, memory_bytes=memory)
    rank = min(rank, most_rows(objective, memory))
    near(scores, expected(c, 0.05, largest_rows(c, 0.05, rank)), 1e-8)
    own = self_influence(objective, c.rows, method="gauss_newton", damping=0.05, rank=rank, memory_bytes=memory)
    near(own.scores, np.diag(scores)[own.train.rows], 1e-8)
    if diagnostics.solver_status.startswith("all"):
        assert diagnostics.residual < 1e-8
    else:
        assert rank < n * classes


def largest_rows(c, damping, rank):
    """The matrix of the largest rows √(σ_k w_i/n) J_iᵀu_k, from Jacobians by torch.func."""
    objective, theta = c.objective, c.objective.theta
    batch = objective.place(next(c.rows.batches(1000)))
    w = torch.ones(len(c.x), dtype=torch.float64) if c.weights is None else c.weights
    rows = []
    for i in range(len(c.x)):
        inputs = {name: tensor[i : i + 1] for name, tensor in batch.inputs.items()}
        J = torch.func.jacrev(lambda t, inputs=inputs: objective.outputs(t, inputs)[0])(theta)
        f, y = objective.outputs(theta, inputs)[0], batch.targets[i : i + 1]
        S = torch.func.hessian(lambda f, y=y: objective.loss.losses(f[None], y)[0])(f)
        values, vectors = torch.linalg.eigh(S)
        rows.append((vectors * (values.clamp(min=0) * w[i] / len(c.x)).sqrt()).T @ J)
    rows = torch.cat(rows)
    kept = rows[rows.norm(dim=1).argsort(descending=True)[:rank]]
    return kept.T @ kept + torch.diag(objective.l2 + damping)


def test_the_rows_make_the_matrix_and_its_trace(case):
    c = case("cross_entropy", False, weighted=True, exclude=("*bias*",))
    whole = gauss_newton_root(c.objective, c.rows, EVERY)
    G = dense.gauss_newton(c, 0.0)
    torch.testing.assert_close(whole.to_dense(), G, rtol=1e-10, atol=1e-12)
    V = torch.randn(len(G), 3, dtype=torch.float64)
    torch.testing.assert_close(whole.matmat(V), G @ V, rtol=1e-10, atol=1e-12)
    assert whole.whole
    assert whole.count == 2 * len(c.x), "softmax's curvature has rank C − 1"
    some = gauss_newton_root(c.objective, c.rows, 7, memory_bytes=40_000)
    assert (some.kept, some.count, some.whole) == (7, whole.count, False)
    assert some.trace == pytest.approx(float(G.trace() - c.objective.l2.sum()), rel=1e-12)
    assert some.mean_eigenvalue == pytest.approx(float(G.trace()) / len(G), rel=1e-12)
    squares = whole.rows.norms().square().sort(descending=True).values
    assert some.kept_trace == pytest.approx(float(squares[:7].sum()), rel=1e-12)


def test_many_outputs_take_another_root_of_the_same_matrix(program):
    torch.manual_seed(0)
    model = program(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 40)), torch.randn(3, 3))
    x = torch.randn(6, 3, dtype=torch.float64)
    c = Drawn(Objective(model, ObjectiveSpec("cross_entropy", 0.1)), x, torch.arange(6))
    near(found(c, damping=0.1, rank=EVERY)[0], expected(c, 0.1))


def test_the_solver_solves(case):
    c = case("cross_entropy", False, exclude=("*bias*",))
    root = gauss_newton_root(c.objective, c.rows, 11)
    damped = Damped(root, 0.01)
    state = Dual().prepare(damped)
    rhs = torch.randn(root.dim, 4, dtype=torch.float64)
    solution = Dual().solve(state, rhs)
    torch.testing.assert_close(solution.value, torch.linalg.solve(damped.to_dense(), rhs), rtol=1e-9, atol=1e-9)
    assert solution.residual < 1e-10
    gradients = loss_gradients(c.objective, c.objective.place(next(c.rows.batches(5))))
    G = gradients.dense()
    wanted = G @ torch.linalg.solve(damped.to_dense(), G.T)
    torch.testing.assert_close(state.bilinear(state.coefficients(gradients), gradients, gradients), wanted)
    torch.testing.assert_close(state.quadratic(gradients), wanted.diagonal())


def test_float32_keeps_its_digits_at_any_damping():
    """With λ far below the curvature, the rows are multiplied in float64."""
    torch.manual_seed(0)
    x = torch.randn(40, 6)
    objective = opened(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), x, l2=0.0)
    y = torch.arange(40) % 3
    double = Drawn(objective, x, y)
    program = objective.program.to("cpu", torch.float32)
    single = Drawn(Objective(program, objective.spec), x, y)
    for damping, dtype in ((1e-1, torch.float32), (1e-7, torch.float64)):
        root = gauss_newton_root(single.objective, single.rows, EVERY)
        state = Dual().prepare(Damped(root, damping))
        assert state.dtype is dtype
        assert in_dtype(root.rows, dtype).norms().dtype is dtype
        scores, _ = found(single, damping=damping, rank=EVERY)
        correlation = np.corrcoef(scores.ravel(), expected(double, damping).ravel())[0, 1]
        assert correlation > 1 - 1e-5


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_logistic", "squared_error"])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("rank", [1, 20, None])
def test_a_tolerance_is_met_in_the_whole_matrix_whatever_the_preconditioner_keeps(case, loss, head, rank):
    c = case(loss, head, weighted=True, exclude=("*bias*",))
    wanted = expected(c, 0.01)
    for tolerance in (1e-12, 1e-3):
        scores, diagnostics = found(c, damping=0.01, tolerance=tolerance, rank=rank)
        near(scores, wanted, 100 * tolerance)
        assert diagnostics.residual <= tolerance
        assert diagnostics.solver.startswith("cg, preconditioned by")
    own = self_influence(c.objective, c.rows, method="gauss_newton", damping=0.01, tolerance=1e-12, rank=rank)
    near(own.scores, np.diag(wanted)[own.train.rows], 1e-9)


def test_rows_of_a_preconditioner_save_iterations(case):
    c = case("cross_entropy", False, n=60)
    products = [found(c, damping=1e-3, tolerance=1e-8, rank=rank, rows=[0])[1].matvecs for rank in (1, 60, EVERY)]
    assert products[0] > products[1] > products[2]
    with pytest.raises(FailedPrecondition) as caught:
        found(c, damping=1e-3, max_iterations=1, rank=1, rows=[0])
    assert caught.value.reason == Reason.SOLVER_NOT_CONVERGED


def test_a_head_is_exact(case):
    for leverage in (None, False):
        c = case("cross_entropy", weighted=True)
        settings = {"leverage_correction": leverage, "top_k": None}
        found = influence(c.objective, c.rows, c.rows, method="gauss_newton", **settings)
        exact = influence(c.objective, c.rows, c.rows, method="exact", **settings)
        np.testing.assert_array_equal(found.scores, exact.scores)
        assert found.diagnostics.leverage_correction == exact.diagnostics.leverage_correction == (leverage is None)
        assert found.diagnostics.damping == 0
        single = Objective(c.objective.program.to("cpu", torch.float32), c.objective.spec)
        again = influence(single, c.rows, c.rows, method="gauss_newton", **settings)
        np.testing.assert_allclose(again.scores, exact.scores, rtol=1e-4, atol=1e-6)


def test_the_default_damping_is_a_tenth_of_the_mean_eigenvalue_on_every_route(case):
    c = case("binary_logistic", False, exclude=("*bias*",))
    wanted = 0.1 * float(dense.gauss_newton(c, 0.0).diagonal().mean())
    for rank in (None, 5, EVERY):
        _, diagnostics = found(c, rank=rank)
        assert diagnostics.damping == pytest.approx(wanted, rel=1e-9)
        assert diagnostics.damping_source == "mean_eigenvalue"


def test_what_is_left_out_is_said(case):
    c = case("cross_entropy", False)
    _, all_of_them = found(c, rank=EVERY, damping=0.1)
    assert all_of_them.solver_status == "all 60 rows"
    _, some = found(c, rank=6, damping=0.1)
    root = gauss_newton_root(c.objective, c.rows, 6)
    assert some.solver_status == f"truncated: 6 of 60 rows, {100 * root.kept_trace / root.trace:.1f} % of the trace"
    assert some.residual > 1e-3 > 1e-9 > all_of_them.residual
    assert not any("memory" in text for text in some.warnings)
    _, cut = found(c, rank=40, damping=0.1, memory_bytes=40_000)
    assert cut.solver_status.startswith("truncated")
    assert any("fit into the memory" in text for text in cut.warnings)


def test_a_direction_that_nothing_holds_is_refused(case):
    c = case("binary_logistic", False, exclude=("*bias*",))
    with pytest.raises(FailedPrecondition, match=r"'0.bias'.*pass damping=") as caught:
        found(c, damping=0.0, rank=EVERY)
    assert caught.value.reason == Reason.HESSIAN_SINGULAR
    near(found(c, damping=0.0)[0], expected(c, 0.0), 1e-6)  # written down, it may have an inverse
    whole = case("cross_entropy", False)
    near(found(whole, damping=0.0, rank=EVERY)[0], expected(whole, 0.0))


def test_rows_without_any_curvature_are_refused(case):
    c = case("cross_entropy", False)
    rows = TensorRows({"x": c.x}, c.y, torch.zeros(len(c.x), dtype=torch.float64))
    method = REGISTRY["gauss_newton"]
    with pytest.raises(FailedPrecondition, match="no training row curves") as caught:
        method.fit(Problem(c.objective, rows, damping=0.1, rank=5))
    assert caught.value.reason == Reason.HESSIAN_SINGULAR


def test_the_correction_needs_a_head_and_all_rows(case):
    for head, rank in ((False, None), (True, 3)):
        c = case("cross_entropy", head)
        with pytest.raises(InvalidArgument, match="leverage correction") as caught:
            found(c, leverage_correction=True, rank=rank, damping=0.1)
        assert caught.value.violations[0].reason == Reason.LEVERAGE_UNAVAILABLE


def test_few_test_rows_are_solved_for_as_vectors_and_score_alike(case, monkeypatch):
    c = case("cross_entropy", False)
    chosen, _ = found(c, rank=EVERY, damping=0.1)
    for takes_less in (True, False):
        monkeypatch.setattr(
            "undue_service.engine.methods.dual._columns_take_less", lambda *_, takes_less=takes_less: takes_less
        )
        near(found(c, rank=EVERY, damping=0.1)[0], chosen, 1e-10)


def test_program_dtypes(program):
    """A program in float32 is scored in float32 by the dual route, in float64 where the matrix is written down."""
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    model = Program.from_exported(
        torch.export.export(
            nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).eval(),
            (x,),
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )
    )
    objective = Objective(model, ObjectiveSpec("cross_entropy", 0.1))
    rows = TensorRows({"x": x}, torch.arange(30) % 2)
    method = REGISTRY["gauss_newton"]
    for rank, dtype in ((None, torch.float64), (10, torch.float32)):
        factors = method.fit(Problem(objective, rows, rank=rank))
        assert factors.objective.program.dtype is dtype


def test_a_residual_that_single_precision_has_not_is_met_in_double(program):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    rows = TensorRows({"x": x}, torch.arange(30) % 3)
    single = Objective(program(module, x[:3]).to("cpu", torch.float32), ObjectiveSpec("cross_entropy", 1e-6))
    for tolerance, dtype in ((1e-9, "float64"), (1e-3, "float32")):
        found = influence(single, rows, rows, method="gauss_newton", tolerance=tolerance, damping=1e-6).diagnostics
        assert found.residual <= tolerance
        assert found.dtype == dtype


def test_rows_are_kept_until_they_hold_the_trace(case):
    c = case("cross_entropy", False)
    root = gauss_newton_root(c.objective, c.rows, 1000)
    assert root.whole
    assert root.holding(1.0, 1) is root
    for share in (0.3, 0.9):
        some = root.holding(share, 1)
        assert some.kept < root.kept
        assert some.kept_trace >= share * root.trace > some.kept_trace - float(some.squares.min())
        assert float(some.squares.min()) >= float(root.squares.sort(descending=True).values[some.kept])
        torch.testing.assert_close(some.rows.norms().square(), some.squares)
    assert root.holding(0.3, 40).kept == 40
    assert root.holding(0.9, 1, 5).kept == 5
