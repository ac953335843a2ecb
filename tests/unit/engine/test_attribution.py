"""What a score is: against its formula written out, and what must not change it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from unit.engine.dense import gradients, hessian, lists_to_matrix

LOSSES = ["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]
KINDS = [(loss, head) for loss in LOSSES for head in (True, False)]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_leverage_correction_is_the_newton_step_without_the_row(case, loss):
    """(H − (w_i/n) ∇²ℓ_i)⁻¹ instead of H⁻¹, written out row by row."""
    c = case(loss, weighted=True)
    found = influence(c.objective, c.rows, c.rows, top_k=10**9)
    n, g, H = len(c.x), gradients(c), hessian(c, 0.0)
    expected = np.empty((n, n))
    for i in range(n):
        batch = c.objective.place(next(c.rows.batches(1, [i])))
        own = torch.func.hessian(lambda t, b=batch: c.objective.losses(t, b)[0])(c.objective.theta)
        step = torch.linalg.solve(H - c.weights[i] / n * own, c.weights[i] / n * g[i])
        expected[:, i] = (g @ step).numpy()
    assert found.diagnostics.leverage_correction
    np.testing.assert_allclose(lists_to_matrix(found, n), expected, rtol=1e-8, atol=1e-12)
    own = self_influence(c.objective, c.rows)
    np.testing.assert_allclose(own.scores, np.sort(np.diag(expected))[::-1], rtol=1e-8)


@pytest.mark.parametrize(("loss", "head"), KINDS)
def test_weight_two_is_the_row_twice_and_weight_zero_is_no_row(case, loss, head):
    c = case(loss, head)
    n = len(c.x)
    weights = torch.ones(n, dtype=torch.float64)
    weights[4], weights[5] = 2, 0
    weighted = TensorRows({"x": c.x}, c.y, weights)
    by_weight = influence(c.objective, weighted, c.rows, damping=2.0, top_k=n)
    matrix = lists_to_matrix(by_weight, n)
    assert (matrix[:, 5] == 0).all()
    keep = [i for i in range(n) if i != 5] + [4]  # as many rows, so the same 1/n
    doubled = influence(
        c.objective, TensorRows({"x": c.x[keep]}, c.y[keep]), c.rows, damping=2.0, top_k=n, leverage_correction=False
    )
    plain = lists_to_matrix(
        influence(c.objective, weighted, c.rows, damping=2.0, top_k=n, leverage_correction=False), n
    )
    twice = lists_to_matrix(doubled, n)
    np.testing.assert_allclose(twice[:, -1] + twice[:, keep.index(4)], plain[:, 4], rtol=1e-10)
    np.testing.assert_allclose(twice[:, :4], plain[:, :4], rtol=1e-10)


def test_a_float32_export_scores_as_its_float64_twin(export):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    found = []
    for m, inputs in ((module, x), (module.double(), x.double())):
        program = Program.from_exported(export(m, inputs[:3]), None).to("cpu", torch.float64)
        found.append(
            influence(
                Objective(program, ObjectiveSpec("cross_entropy")),
                TensorRows({"x": x}, y),
                TensorRows({"x": x}, y),
                damping=1.0,
                top_k=None,
            )
        )
        assert found[-1].diagnostics.dtype == "float64"
        module = module.float() if m is module else module
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-5, atol=1e-9)


def test_a_parameter_subset_is_the_hessian_of_that_subset(case):
    c = case("cross_entropy", head=False, parameters=("2.*",))
    assert c.objective.head is not None
    found = influence(c.objective, c.rows, c.rows, damping=0.5, top_k=None, leverage_correction=False)
    g = gradients(c)
    assert g.shape[1] == 12
    expected = (g @ torch.linalg.solve(hessian(c, 0.5), g.T)).T.numpy() / len(g)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-9)


def test_facts_of_rows_are_those_of_the_model(case):
    c = case("cross_entropy")
    found = influence(c.objective, c.rows, c.rows, rows=[3, 9], top_k=4)
    f = c.objective.outputs(c.objective.theta, {"input": c.x})
    losses = nn.functional.cross_entropy(f, c.y, reduction="none").numpy()
    assert found.test.predictions.tolist() == f.argmax(1)[[3, 9]].tolist()
    assert found.test.targets.tolist() == c.y[[3, 9]].tolist()
    np.testing.assert_allclose(found.test.losses, losses[[3, 9]], rtol=1e-12)
    listed = found.train.rows
    assert set(listed) == {r for r in np.concatenate([found.helpful_rows, found.harmful_rows]).ravel() if r >= 0}
    assert (np.diff(listed) > 0).all()
    np.testing.assert_allclose(found.train.losses, losses[listed], rtol=1e-12)
    assert found.scores is None
    assert found.helpful_rows.shape == (2, 4)


def test_without_targets_the_prediction_is_explained(case):
    c = case("cross_entropy")
    predicted = c.objective.outputs(c.objective.theta, {"input": c.x}).argmax(1)
    bare = influence(c.objective, c.rows, TensorRows({"x": c.x}), top_k=None)
    told = influence(c.objective, c.rows, TensorRows({"x": c.x}, predicted), top_k=None)
    assert (bare.scores == told.scores).all()
    assert (bare.test.targets == predicted.numpy()).all()
    r = case("squared_error", outputs=1, l2=0.1)
    bare = influence(r.objective, r.rows, TensorRows({"x": r.x}), top_k=None, leverage_correction=False)
    x = torch.cat([r.x, torch.ones(len(r.x), 1)], 1)  # the output's gradient is x̃
    order = torch.tensor(r.objective.head.positions[0])
    s = torch.linalg.solve(hessian(r, 0.0), x[:, torch.argsort(order)].T)
    np.testing.assert_allclose(bare.scores, (gradients(r) @ s / len(x)).T, rtol=1e-5, atol=1e-8)
    assert (bare.test.losses == 0).all()
    assert bare.test.predictions.shape == (30,)


def test_lists_hold_only_their_sign_and_pad_the_rest(case):
    c = case("squared_error", outputs=1)
    one = TensorRows({"x": c.x[:3]}, c.y[:3])
    found = influence(c.objective, one, c.rows, damping=1.0, top_k=50)
    assert found.helpful_rows.shape == (30, 3)
    for rows, scores, sign in (
        (found.helpful_rows, found.helpful_scores, 1),
        (found.harmful_rows, found.harmful_scores, -1),
    ):
        assert ((rows == -1) == (scores == 0)).all()
        assert (sign * scores >= 0).all()
        assert (np.diff(sign * scores, axis=1) <= 0).all()
    assert (found.helpful_rows == -1).any()
    assert (((found.helpful_rows >= 0).sum(1) + (found.harmful_rows >= 0).sum(1)) == 3).all()


def test_progress_is_told_between_blocks_and_may_stop_the_work(case):
    c = case("cross_entropy", head=False)
    heard = []
    influence(c.objective, c.rows, c.rows, damping=1.0, memory_bytes=30_000, progress=lambda *a: heard.append(a))
    assert list(dict.fromkeys(stage for stage, _, _ in heard)) == ["stationarity", "curvature", "scores"]
    assert all(0 < done <= total for _, done, total in heard)

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if stage == "scores":
            raise Stop

    with pytest.raises(Stop):
        influence(c.objective, c.rows, c.rows, damping=1.0, progress=stop)


def test_diagnostics_say_what_was_done(case):
    c = case("cross_entropy")
    exact = influence(c.objective, c.rows, c.rows).diagnostics
    assert (exact.method, exact.scale, exact.solver, exact.solver_status) == (
        "exact",
        "removal",
        "cholesky",
        "converged",
    )
    assert (exact.damping, exact.damping_source, exact.leverage_correction) == (0.0, "convex", True)
    assert 0 < exact.residual < 1e-10
    assert self_influence(c.objective, c.rows).diagnostics.residual < 1e-10
    network = case("cross_entropy", head=False, l2=1.0)
    found = influence(network.objective, network.rows, network.rows).diagnostics
    trace = float(hessian(network, 0.0).diagonal().mean())
    assert (found.damping_source, found.leverage_correction) == ("mean_eigenvalue", False)
    assert found.damping == pytest.approx(0.1 * trace, rel=1e-10)
    dot = influence(c.objective, c.rows, c.rows, method="grad_dot", damping=3.0).diagnostics
    assert (dot.damping, dot.damping_source, dot.scale, dot.residual, dot.solver) == (
        0.0,
        "unused",
        "relative",
        0.0,
        "",
    )
    whole = exact.complete(recipe="r", seed=1, digests={"model": "m"})
    assert (whole.recipe, whole.seed, whole.digests, whole.stationarity) == ("r", 1, {"model": "m"}, exact.stationarity)


@pytest.mark.parametrize(
    ("arguments", "reason", "says"),
    [
        ({"method": "magic"}, Reason.METHOD_UNKNOWN, "arnoldi, cg, ekfac, exact"),
        ({"rows": [0, 30]}, Reason.ROW_OUT_OF_RANGE, "no test row 30; there are rows 0…29"),
        ({"rows": [-1]}, Reason.ROW_OUT_OF_RANGE, "-1"),
        ({"rows": []}, Reason.INVALID_FIELD, "at least one"),
        ({"top_k": 0}, Reason.INVALID_FIELD, "at least 1"),
        ({"damping": -1.0}, Reason.INVALID_FIELD, "damping"),
        ({"damping": math.nan, "method": "grad_dot"}, Reason.INVALID_FIELD, "damping"),
        ({"aggregate": "median"}, Reason.INVALID_FIELD, "mean"),
        ({"measurement": "vibes"}, Reason.INVALID_FIELD, "loss, logit, margin"),
        ({"leverage_correction": True}, Reason.LEVERAGE_UNAVAILABLE, "linear in every selected parameter"),
        ({"tolerance": 1e-3}, Reason.INVALID_FIELD, "exact does not iterate"),
        ({"max_iterations": 3, "method": "grad_dot"}, Reason.INVALID_FIELD, "does not iterate"),
        ({"tolerance": 0.0, "method": "cg"}, Reason.INVALID_FIELD, "between 0 and 1"),
        ({"tolerance": math.nan, "method": "cg"}, Reason.INVALID_FIELD, "between 0 and 1"),
        ({"max_iterations": 0, "method": "cg"}, Reason.INVALID_FIELD, "at least 1"),
        ({"leverage_correction": True, "method": "cg"}, Reason.LEVERAGE_UNAVAILABLE, "exact"),
        ({"leverage_correction": True, "method": "grad_dot"}, Reason.LEVERAGE_UNAVAILABLE, "exact"),
    ],
)
def test_requests_that_are_wrong(case, arguments, reason, says):
    c = case("cross_entropy", head=False)
    with pytest.raises(InvalidArgument, match=says) as error:
        influence(c.objective, c.rows, c.rows, **{"damping": 1.0, **arguments})
    assert error.value.reason is reason


def test_training_data_without_targets_is_refused(case):
    c = case("cross_entropy")
    with pytest.raises(InvalidArgument, match="targets") as error:
        influence(c.objective, TensorRows({"x": c.x}), c.rows)
    assert error.value.reason is Reason.TARGETS_MISSING


def test_a_matrix_that_would_not_fit_is_refused(case):
    c = case("cross_entropy")
    with pytest.raises(ResourceExhausted, match="top_k") as error:
        influence(c.objective, c.rows, c.rows, top_k=None, memory_bytes=3000)
    assert error.value.reason is Reason.OUT_OF_MEMORY


def test_softmax_without_l2_is_singular_and_says_so(case):
    c = case("cross_entropy", l2=0.0)
    with pytest.raises(FailedPrecondition, match="l2") as error:
        influence(c.objective, c.rows, c.rows, damping=0.0)
    assert error.value.reason is Reason.HESSIAN_SINGULAR
    influence(c.objective, c.rows, c.rows, damping=float(error.value.metadata["sufficient_damping"]))


def test_a_row_of_leverage_one_is_named(case):
    c = case("squared_error", outputs=1, l2=0.0, n=20)
    x = c.x.clone()
    x[:, 0] = 0
    x[7, 0] = 1  # nothing but row 7 determines the first weight
    with pytest.raises(FailedPrecondition, match="row 7") as error:
        influence(c.objective, TensorRows({"x": x}, c.y), c.rows, damping=0.0)
    assert error.value.reason is Reason.LEVERAGE_UNAVAILABLE


@pytest.mark.parametrize("where", ["train", "test"])
def test_nan_is_an_error_and_never_a_ranking(case, where):
    c = case("cross_entropy")
    x = c.x.clone()
    x[5, 2] = math.nan
    bad = TensorRows({"x": x}, c.y)
    with pytest.raises(FailedPrecondition) as error:
        influence(c.objective, bad if where == "train" else c.rows, bad if where == "test" else c.rows)
    assert error.value.reason is Reason.NON_FINITE_RESULT
    if where == "train":
        assert error.value.metadata["row"] == "5"


def test_a_model_that_mixes_rows_is_refused(program):
    class Mixes(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(4, 3)

        def forward(self, x):
            return self.l(x - x.mean(0, keepdim=True))

    objective = Objective(program(Mixes(), torch.randn(3, 4)), ObjectiveSpec("cross_entropy", l2=0.1))
    rows = TensorRows({"x": torch.randn(9, 4)}, torch.arange(9) % 3)
    with pytest.raises(InvalidArgument, match="alone") as error:
        influence(objective, rows, rows)
    assert error.value.reason is Reason.MODEL_UNSUPPORTED


def test_outputs_that_look_like_probabilities_are_warned_of(program):
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(4, 3)

        def forward(self, x):
            e = self.l(x).exp()
            return e / e.sum(1, keepdim=True)

    objective = Objective(program(Normalised(), torch.randn(3, 4)), ObjectiveSpec("cross_entropy", l2=0.1))
    rows = TensorRows({"x": torch.randn(9, 4)}, torch.arange(9) % 3)
    found = influence(objective, rows, rows, method="grad_dot")
    assert any("probabilities" in warning for warning in found.diagnostics.warnings)
