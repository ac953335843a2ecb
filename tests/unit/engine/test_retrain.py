"""Fits without some rows: against torch's L-BFGS, closed forms, and under what must not change a measurement."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.heads import quasi_newton
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.retrain import retrain

LOSSES = ["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]
SETS = [[0], [3, 17, 4], list(range(5, 20))]


def lbfgs(c, weights):
    """The minimiser of (1/n) Σ w_i ℓ_i + ½ l2 ∘ θ² by torch, from zero."""
    theta = torch.zeros_like(c.objective.theta).requires_grad_()
    batch = c.objective.place(next(TensorRows({"x": c.x}, c.y).batches(10**6)))
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=3000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        risk = (weights * c.objective.losses(theta, batch)).sum() / len(c.x)
        risk = risk + 0.5 * (c.objective.l2 * theta.square()).sum()
        risk.backward()
        return risk

    optimizer.step(closure)
    assert float(theta.grad.norm()) < 3e-8, "its line search ends where the value rounds"
    return theta.detach()


def expected_changes(c, sets, measurement="loss"):
    """By L-BFGS: costs (m,) and changes (k, m), of the training rows as test rows."""
    w = torch.ones(len(c.x), dtype=torch.float64) if c.weights is None else c.weights
    batch = c.objective.explained(c.objective.place(next(TensorRows({"x": c.x}, c.y).batches(10**6))))
    costs = []
    for removed in [[], *sets]:
        kept = w.clone()
        kept[removed] = 0
        costs.append(c.objective.measurement(lbfgs(c, kept), batch, measurement).numpy())
    return costs[0], np.stack(costs[1:]) - costs[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("exclude", [(), ("bias",)], ids=["l2", "bias excluded"])
def test_changes_are_those_of_another_optimiser(case, loss, weighted, exclude):
    c = case(loss, weighted=weighted, exclude=exclude)
    found = retrain(c.objective, c.rows, c.rows, without=SETS)
    costs, changes = expected_changes(c, SETS)
    np.testing.assert_allclose(found.costs, costs, atol=1e-6)
    np.testing.assert_allclose(found.changes, changes, atol=1e-6 * abs(changes).max())
    assert (found.gradient_norms <= 1e-10).all()
    assert abs(changes).max() > 0.01
    assert [edit.without for edit in found.edits] == [tuple(some) for some in SETS]
    assert found.rows.tolist() == list(range(30))
    d = found.diagnostics
    assert (d.method, d.scale, d.solver, d.solver_status, d.damping_source) == (
        "retrain",
        "removal",
        "newton",
        "converged",
        "unused",
    )
    assert d.residual == found.gradient_norms.max()
    assert "loss" in d.estimand


@pytest.mark.parametrize(
    ("loss", "measurement"), [("cross_entropy", "logit"), ("cross_entropy", "margin"), ("binary_logistic", "margin")]
)
def test_the_other_measurements(case, loss, measurement):
    c = case(loss)
    found = retrain(c.objective, c.rows, c.rows, without=SETS, rows=[4, 0, 4], measurement=measurement)
    costs, changes = expected_changes(c, SETS, measurement)
    np.testing.assert_allclose(found.costs, costs[[4, 0, 4]], atol=1e-6)
    np.testing.assert_allclose(found.changes, changes[:, [4, 0, 4]], atol=1e-6 * abs(changes).max())
    assert found.rows.tolist() == [4, 0, 4]


@pytest.mark.parametrize("l2", [0.1, 0.0])
def test_a_squared_error_is_solved_exactly_in_one_step(case, l2):
    """Ridge and least squares: θ = (X̃ᵀ W X̃ / n + l2 I)⁻¹ X̃ᵀ W y / n without the rows."""
    c = case("squared_error", l2=l2, weighted=True)
    found = retrain(c.objective, c.rows, c.rows, without=SETS)
    x = torch.cat([c.x, torch.ones(30, 1, dtype=torch.float64)], 1)

    def losses(removed):
        w = c.weights.clone()
        w[removed] = 0
        A = (x.T * w) @ x / 30 + l2 * torch.eye(5, dtype=torch.float64)
        theta = torch.linalg.solve(A, (x.T * w) @ c.y / 30)
        return 0.5 * (x @ theta - c.y).square().sum(1).numpy()

    np.testing.assert_allclose(found.costs, losses([]), rtol=1e-10)
    for k, removed in enumerate(SETS):
        change = losses(removed) - losses([])
        np.testing.assert_allclose(found.changes[k], change, atol=1e-9 * abs(change).max())
    assert found.iterations.tolist() == [1, 1, 1]


def test_where_l2_leaves_the_minimiser_open_the_changes_are_still_one(case):
    """Without L2 the softmax's weights have directions that no output feels; the predictions are one all the same."""
    c = case("cross_entropy", l2=0.0)
    sets = [[0], [3, 17, 4]]
    found = retrain(c.objective, c.rows, c.rows, without=sets)
    costs, changes = expected_changes(c, sets)
    np.testing.assert_allclose(found.costs, costs, atol=1e-7)
    np.testing.assert_allclose(found.changes, changes, atol=1e-6 * abs(changes).max())
    assert not any("no L2" in warning for warning in found.diagnostics.warnings)


def test_the_last_layer_of_a_network(case):
    c = case("cross_entropy", head=False, parameters=("2.*",))
    found = retrain(c.objective, c.rows, c.rows, without=SETS)
    _, changes = expected_changes(c, SETS)
    np.testing.assert_allclose(found.changes, changes, atol=1e-6 * abs(changes).max())


def test_the_registered_weights_need_not_be_the_minimum(case):
    c = case("cross_entropy")
    away = retrain(c.objective, c.rows, c.rows, without=SETS)
    star = lbfgs(c, torch.ones(30, dtype=torch.float64))
    assert away.distance == pytest.approx(float((star - c.objective.theta).norm()), rel=1e-6)
    assert away.distance > 0.1
    assert away.diagnostics.stationarity.gradient_norm > 1e-3
    parameters = {**c.objective.program.parameters, **c.objective.space.unflatten(star)}
    there = Objective(replace(c.objective.program, parameters=parameters), ObjectiveSpec("cross_entropy", 0.1))
    at = retrain(there, c.rows, c.rows, without=SETS)
    assert at.distance < 1e-6
    np.testing.assert_allclose(at.changes, away.changes, atol=1e-8)
    np.testing.assert_allclose(at.costs, away.costs, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_twice_is_a_row_of_weight_two(case, loss):
    """Removing both copies is removing it, and removing one is leaving it with weight one."""
    c = case(loss)
    ones = torch.ones(30, dtype=torch.float64)
    two, filler = ones.clone(), torch.cat([ones, torch.zeros(1, dtype=torch.float64)])
    two[4], filler[9] = 2, 0
    twice_x, twice_y = torch.cat([c.x, c.x[4:5]]), torch.cat([c.y, c.y[4:5]])
    # Row 9 has no weight in either, so that both have as many rows that count and the same n.
    two_x, two_y = torch.cat([c.x, c.x[9:10]]), torch.cat([c.y, c.y[9:10]])
    two = torch.cat([two, torch.zeros(1, dtype=torch.float64)])
    two[9], filler[30] = 0, 1
    copies = TensorRows({"x": twice_x}, twice_y, filler)
    heavy = TensorRows({"x": two_x}, two_y, two)
    light = two.clone()
    light[4] = 1
    a = retrain(c.objective, copies, c.rows, without=[[4, 30], [30], [4]])
    b = retrain(c.objective, heavy, c.rows, without=[[4]])
    one = retrain(c.objective, TensorRows({"x": two_x}, two_y, light), c.rows, without=[[0]])
    np.testing.assert_allclose(a.costs, b.costs, atol=1e-9)
    np.testing.assert_allclose(a.changes[0], b.changes[0], atol=1e-8)
    np.testing.assert_allclose(a.changes[1], a.changes[2], atol=1e-8)
    np.testing.assert_allclose(a.costs + a.changes[1], one.costs, atol=1e-6)
    assert abs(a.changes).max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("memory", [2**30, 20_000, 4_000], ids=["kept", "small", "streamed"])
def test_blocks_and_order_change_nothing(case, loss, memory):
    c = case(loss, weighted=True)
    sets = [[i] for i in range(30)]
    whole = retrain(c.objective, c.rows, c.rows, rows=[1, 2], without=sets, tolerance=1e-12)
    again = retrain(c.objective, c.rows, c.rows, rows=[1, 2], without=sets[::-1], tolerance=1e-12, memory_bytes=memory)
    np.testing.assert_allclose(again.changes[::-1], whole.changes, atol=1e-10)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    mixed = retrain(
        c.objective,
        TensorRows({"x": c.x[order]}, c.y[order], c.weights[order]),
        c.rows,
        rows=[1, 2],
        without=sets,
        tolerance=1e-12,
        memory_bytes=memory,
    )
    np.testing.assert_allclose(mixed.changes, whole.changes[order.numpy()], atol=1e-10)


def test_a_row_without_weight_changes_nothing(case):
    c = case("cross_entropy", weighted=True)
    c.weights[5] = 0
    found = retrain(c.objective, c.rows, c.rows, without=[[5], [6]])
    assert (found.changes[0] == 0).all()
    assert found.iterations.tolist()[0] == 0
    assert (found.changes[1] != 0).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_logistic"])
def test_a_whole_class_and_all_but_one_row(case, loss):
    c = case(loss)
    of_class = (c.y == 1).nonzero()[:, 0].tolist()
    sets = [of_class, list(range(1, 30))]
    found = retrain(c.objective, c.rows, c.rows, without=sets)
    _, changes = expected_changes(c, sets)
    np.testing.assert_allclose(found.changes, changes, atol=1e-6 * abs(changes).max())
    assert (found.changes[0][of_class] > 0).all()


def test_without_targets_the_label_of_the_registered_model_is_measured(case):
    c = case("cross_entropy")
    predicted = c.objective.outputs(c.objective.theta, {"input": c.x}).argmax(1)
    assert (predicted != c.y).any()
    bare = retrain(c.objective, c.rows, TensorRows({"x": c.x}), without=SETS)
    told = retrain(c.objective, c.rows, TensorRows({"x": c.x}, predicted), without=SETS)
    assert (bare.changes == told.changes).all()
    r = case("squared_error", outputs=1)
    output = retrain(r.objective, r.rows, TensorRows({"x": r.x}), without=SETS)
    batch = r.objective.place(next(TensorRows({"x": r.x}).batches(100)))
    theta = lbfgs(r, torch.ones(30, dtype=torch.float64))
    np.testing.assert_allclose(output.costs, r.objective.outputs(theta, batch.inputs)[:, 0], atol=1e-8)


def test_progress_counts_the_fits_and_may_stop_them(case):
    c = case("cross_entropy")
    heard = []
    sets = [[i % 30] for i in range(70)]
    retrain(c.objective, c.rows, c.rows, without=sets, progress=lambda *a: heard.append(a))
    stages = list(dict.fromkeys(stage for stage, _, _ in heard))
    assert stages == ["stationarity", "fit on all rows", "features", "fits without rows"]
    assert heard[-1] == ("fits without rows", 70, 70)
    assert ("fits without rows", 64, 70) in heard

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if stage == "fits without rows":
            raise Stop

    with pytest.raises(Stop):
        retrain(c.objective, c.rows, c.rows, without=sets, progress=stop)


@pytest.mark.parametrize(
    ("arguments", "reason", "field"),
    [
        ({"without": []}, Reason.INVALID_FIELD, "without"),
        ({"without": [[1], []]}, Reason.INVALID_FIELD, "without[1]"),
        ({"without": [[1], [2, 30]]}, Reason.ROW_OUT_OF_RANGE, "without[1]"),
        ({"without": [[-1]]}, Reason.ROW_OUT_OF_RANGE, "without[0]"),
        ({"without": [[0], list(range(30))]}, Reason.INVALID_FIELD, "without[1]"),
        ({"rows": [30]}, Reason.ROW_OUT_OF_RANGE, "rows"),
        ({"rows": []}, Reason.INVALID_FIELD, "rows"),
        ({"measurement": "vibes"}, Reason.INVALID_FIELD, "measurement"),
        ({"tolerance": 0.0}, Reason.INVALID_FIELD, "tolerance"),
        ({"max_iterations": 0}, Reason.INVALID_FIELD, "max_iterations"),
    ],
)
def test_requests_that_are_wrong(case, arguments, reason, field):
    c = case("cross_entropy")
    with pytest.raises(InvalidArgument) as error:
        retrain(c.objective, c.rows, c.rows, **{"without": SETS, **arguments})
    assert (error.value.reason, error.value.violations[0].field) == (reason, field)


def test_a_network_needs_its_recipe(case):
    c = case("cross_entropy", head=False)
    with pytest.raises(FailedPrecondition, match=r"training=.*parameters=\[") as error:
        retrain(c.objective, c.rows, c.rows, without=SETS)
    assert error.value.reason is Reason.RECIPE_MISSING


def test_what_a_head_is_fitted_from_has_no_effect_and_that_is_said(case):
    c = case("cross_entropy")
    plain = retrain(c.objective, c.rows, c.rows, without=SETS)
    asked = retrain(c.objective, c.rows, c.rows, without=SETS, start="cold", seeds=3)
    assert (asked.changes == plain.changes).all()
    assert any("no effect" in warning for warning in asked.diagnostics.warnings)
    assert not any("no effect" in warning for warning in plain.diagnostics.warnings)
    assert "Newton" in plain.recipe


def test_too_few_iterations_name_the_fit_and_what_is_left(case):
    c = case("cross_entropy")
    with pytest.raises(FailedPrecondition, match="all rows") as error:
        retrain(c.objective, c.rows, c.rows, without=SETS, max_iterations=1)
    assert error.value.reason is Reason.SOLVER_NOT_CONVERGED
    star = lbfgs(c, torch.ones(30, dtype=torch.float64))
    parameters = {**c.objective.program.parameters, **c.objective.space.unflatten(star)}
    there = Objective(replace(c.objective.program, parameters=parameters), ObjectiveSpec("cross_entropy", 0.1))
    with pytest.raises(FailedPrecondition, match=r"rows 5, 6, 7, 8, 9 and 10 more \(without\[1\]\)") as error:
        retrain(there, c.rows, c.rows, without=[[0], SETS[2]], max_iterations=2, tolerance=1e-6)
    assert error.value.metadata["counterfactual"] == "1"
    assert float(error.value.metadata["gradient_norm"]) > 1e-6


def test_a_tolerance_below_rounding_is_an_error_and_not_a_loop(case):
    c = case("cross_entropy")
    with pytest.raises(FailedPrecondition, match="tolerance") as error:
        retrain(c.objective, c.rows, c.rows, without=SETS, tolerance=1e-30)
    assert error.value.reason is Reason.SOLVER_NOT_CONVERGED


def separable(case, exclude=()):
    c = case("binary_logistic", l2=0.0 if not exclude else 0.1, exclude=exclude)
    return c, (c.x[:, 0] > 0).to(torch.int64)


def test_classes_that_can_be_separated_have_no_minimum_without_l2(case):
    c, y = separable(case)
    with pytest.raises(FailedPrecondition, match="no minimum") as error:
        retrain(c.objective, TensorRows({"x": c.x}, y), c.rows, without=[[0]])
    assert error.value.reason is Reason.SOLVER_NOT_CONVERGED
    assert "l2 > 0" in error.value.message
    c, y = separable(case, exclude=("bias",))  # the bias alone runs away once a class is gone
    train = TensorRows({"x": c.x}, y)
    retrain(c.objective, train, c.rows, without=[[0]])
    with pytest.raises(FailedPrecondition, match="no minimum") as error:
        retrain(c.objective, train, c.rows, without=[[0], (y == 1).nonzero()[:, 0].tolist()])
    assert error.value.metadata["counterfactual"] == "1"


def test_what_only_the_removed_rows_determine_is_refused_without_l2(case):
    c = case("squared_error", outputs=1, l2=0.0, n=20)
    x = c.x.clone()
    x[:, 0] = 0
    x[7, 0] = 1
    train = TensorRows({"x": x}, c.y)
    with pytest.raises(FailedPrecondition, match=r"without\[1\]") as error:
        retrain(c.objective, train, c.rows, without=[[0], [7]])
    assert error.value.reason is Reason.HESSIAN_SINGULAR
    x[7, 0] = 0  # nothing determines it at all: it stays, and that is said
    found = retrain(c.objective, TensorRows({"x": x}, c.y), TensorRows({"x": x}, c.y), without=[[0], [7]])
    assert any("no L2" in warning for warning in found.diagnostics.warnings)
    rest = torch.cat([x[:, 1:], torch.ones(20, 1, dtype=torch.float64)], 1)
    kept = torch.arange(20) != 7
    losses = [
        0.5 * (rest @ torch.linalg.lstsq(rest[k], c.y[k]).solution - c.y).square()[:, 0] for k in (kept | True, kept)
    ]
    np.testing.assert_allclose(found.changes[1], losses[1] - losses[0], atol=1e-9)


def test_changes_that_would_not_fit_are_refused(case):
    c = case("cross_entropy")
    with pytest.raises(ResourceExhausted, match="fewer test rows") as error:
        retrain(c.objective, c.rows, c.rows, without=[[0]] * 20, memory_bytes=4_000)
    assert error.value.reason is Reason.OUT_OF_MEMORY


def test_nan_is_an_error(case):
    c = case("cross_entropy")
    x = c.x.clone()
    x[5, 2] = torch.nan
    with pytest.raises(FailedPrecondition) as error:
        retrain(c.objective, c.rows, TensorRows({"x": x}, c.y), without=SETS)
    assert (error.value.reason, error.value.metadata["row"]) == (Reason.NON_FINITE_RESULT, "5")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("exclude", [(), ("bias",)], ids=["l2", "bias excluded"])
def test_it_comes_home_from_far_away(case, loss, exclude):
    """Newton's method alone would not: from weights that saturate every row its first step is far too long."""
    c = case(loss, exclude=exclude)
    near = retrain(c.objective, c.rows, c.rows, without=SETS)
    far = {name: 300 * torch.sin(7 * tensor) for name, tensor in c.objective.program.parameters.items()}
    there = Objective(
        replace(c.objective.program, parameters=far), replace(c.objective.spec, l2=0.1, l2_exclude=exclude)
    )
    found = retrain(there, c.rows, c.rows, without=SETS)
    assert found.distance > 100
    np.testing.assert_allclose(found.changes, near.changes, atol=1e-7)


@pytest.mark.parametrize("l2", [1e-5, 1e-7, 1e-9])
def test_where_l2_is_tiny_a_small_gradient_is_not_enough(case, l2):
    """On separable data ‖∇R‖ ≤ 1e-10 holds far from the minimum; two tolerances have to agree all the same."""
    c = case("binary_logistic", l2=l2)
    train = TensorRows({"x": c.x}, (c.x[:, 0] > 0).to(torch.int64))
    found = [
        retrain(c.objective, train, train, without=[[0], [1]], tolerance=t, measurement="logit").changes
        for t in (1e-10, 1e-13)
    ]
    np.testing.assert_allclose(*found, atol=1e-3)
    assert abs(found[0]).max() > 1e-2


def test_it_says_by_what_the_fits_went(case, monkeypatch):
    c = case("cross_entropy")

    def solver(without):
        return retrain(c.objective, c.rows, c.rows, without=without).diagnostics.solver

    assert solver([[0], [1]]) == "lbfgs"
    assert solver([list(range(15))]) == "newton"  # of so many rows the passes would be dear
    monkeypatch.setattr(quasi_newton, "_MOST_STEPS", 1)
    assert solver([[0], [1]]) == "lbfgs, newton"
