"""Fits to edited training rows: against scipy on data that was edited by hand, and under what changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.heads import factorised
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.edits import Edit
from undue_service.engine.retraining.retrain import retrain
from undue_service.engine.retraining.training import Recipe
from unit.engine.torch_twin import SPECS, N, network, plain, spec

LOSSES = ["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]


def target_of(loss, number):
    """A label, or two numbers."""
    if loss == "squared_error":
        return np.array([number, -number]) / 3.0
    return int(number) % (3 if loss == "cross_entropy" else 2)


def some_edits(loss):
    """One of each kind, and several kinds at once."""
    rng = np.random.default_rng(5)
    inputs = [{"x": row} for row in rng.normal(size=(4, 4))]
    return [
        Edit.of(without=[2, 9]),
        Edit.of(replace={3: inputs[0]}),
        Edit.of(relabel={row: target_of(loss, row + 1) for row in range(0, 12, 2)}),
        Edit.of(reweight=dict.fromkeys(range(10, 25), 0.3)),
        Edit.of(
            without=[0, 1],
            replace={5: inputs[1], 29: inputs[2], 6: inputs[3]},
            relabel={5: target_of(loss, 2), 7: target_of(loss, 1)},
            reweight={29: 4.0, 7: 2.5, 8: 0.0},
        ),
    ]


def by_hand(c, edit):
    """The rows under an edit, as a data set of its own that has as many rows."""
    x, y = c.x.clone(), c.y.clone()
    w = torch.ones(len(x), dtype=torch.float64) if c.weights is None else c.weights.clone()
    for place, row in enumerate(edit.replaced):
        x[row] = edit.inputs["x"][place]
    for place, row in enumerate(edit.relabelled):
        y[row] = edit.targets[place]
    for place, row in enumerate(edit.reweighted):
        w[row] = edit.weights[place]
    w[list(edit.without)] = 0
    return x, y, w


def scipy_costs(c, x, y, w):
    """Losses of the case's own rows at the minimiser that scipy finds for others."""
    batch = c.objective.place(next(TensorRows({"x": x}, y).batches(10**6)))
    here = c.objective.place(next(c.rows.batches(10**6)))

    def risk(theta):
        at = torch.as_tensor(theta).requires_grad_()
        value = (w * c.objective.losses(at, batch)).sum() / len(x) + 0.5 * (c.objective.l2 * at.square()).sum()
        value.backward()
        return float(value.detach()), at.grad.numpy()

    start = np.zeros(c.objective.space.dim)
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30}
    found = minimize(risk, start, jac=True, method="L-BFGS-B", options=options)
    assert np.linalg.norm(risk(found.x)[1]) < 1e-7
    return c.objective.losses(torch.as_tensor(found.x), here).numpy()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_changes_are_those_of_scipy_on_data_edited_by_hand(case, loss, weighted):
    c = case(loss, weighted=weighted)
    edits = some_edits(loss)
    found = retrain(c.objective, c.rows, c.rows, without=[[4]], edits=edits)
    before = scipy_costs(c, *by_hand(c, Edit()))
    np.testing.assert_allclose(found.costs, before, atol=2e-6)
    for k, edit in enumerate([Edit.of(without=[4]), *edits]):
        change = scipy_costs(c, *by_hand(c, edit)) - before
        assert abs(change).max() > 1e-3
        np.testing.assert_allclose(found.changes[k], change, atol=5e-6)
    assert (found.gradient_norms <= 1e-10).all()
    assert found.edits[1:] == tuple(edits)
    assert "edited" in found.diagnostics.estimand


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("memory", [2**30, 20_000, 4_000], ids=["kept", "small", "streamed"])
def test_in_step_or_one_by_one(case, loss, memory):
    c = case(loss, weighted=True)
    edits = some_edits(loss) * 3
    together = retrain(c.objective, c.rows, c.rows, rows=[1, 2], edits=edits, tolerance=1e-12, memory_bytes=memory)
    for k, edit in enumerate(edits[:5]):
        alone = retrain(c.objective, c.rows, c.rows, rows=[1, 2], edits=[edit], tolerance=1e-12)
        for again in (k, k + 5, k + 10):
            np.testing.assert_allclose(together.changes[again], alone.changes[0], atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_changes_nothing_changes_nothing(case, loss):
    c = case(loss, weighted=True)
    edits = [
        Edit.of(replace={3: {"x": c.x[3].numpy()}}),
        Edit.of(relabel={8: c.y[8].numpy()}),
        Edit.of(reweight={4: float(c.weights[4])}),
        Edit.of(replace={3: {"x": c.x[3].numpy()}}, relabel={3: c.y[3].numpy()}, reweight={3: float(c.weights[3])}),
    ]
    found = retrain(c.objective, c.rows, c.rows, edits=edits)
    assert abs(found.changes).max() <= 1e-9


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_zero_is_a_removal_and_replacing_is_removing_and_adding(case, loss):
    c = case(loss)
    x = torch.cat([c.x, c.x[:1] + 1])
    rows = TensorRows({"x": x}, torch.cat([c.y, c.y[3:4]]), torch.cat([torch.ones(30), torch.zeros(1)]).double())
    edits = [
        Edit.of(reweight={7: 0.0, 8: 0.0}),
        Edit.of(replace={3: {"x": x[30].numpy()}}),
        Edit.of(without=[3], reweight={30: 1.0}),
        Edit.of(replace={3: {"x": x[30].numpy()}}, reweight={3: 0.0}),
    ]
    found = retrain(c.objective, rows, c.rows, without=[[7, 8], [3]], edits=edits, tolerance=1e-12)
    np.testing.assert_allclose(found.changes[2], found.changes[0], atol=1e-10)
    np.testing.assert_allclose(found.changes[3], found.changes[4], atol=1e-10)
    np.testing.assert_allclose(found.changes[5], found.changes[1], atol=1e-10)
    assert abs(found.changes[3] - found.changes[1]).max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_a_factor_in_float32_changes_the_way_and_not_the_end(case, loss, monkeypatch):
    c = case(loss, weighted=True)
    fine = retrain(c.objective, c.rows, c.rows, edits=some_edits(loss), tolerance=1e-12)
    monkeypatch.setattr(factorised, "_LARGE", 1)
    made = []
    solving = factorised._solving
    monkeypatch.setattr(factorised, "_solving", lambda *some: made.append(some[0].dtype) or solving(*some))
    coarse = retrain(c.objective, c.rows, c.rows, edits=some_edits(loss), tolerance=1e-12)
    assert torch.float32 in made
    np.testing.assert_allclose(coarse.changes, fine.changes, atol=1e-10)


@st.composite
def edits(draw):
    """Any edit of thirty rows of a softmax's data, seldom all of them."""
    rows = st.integers(0, 29)
    without = draw(st.lists(rows, max_size=5))
    rest = rows.filter(lambda row: row not in without)
    numbers = st.floats(-3, 3, allow_nan=False)
    return Edit.of(
        without,
        {
            row: {"x": np.array(x)}
            for row, x in draw(st.dictionaries(rest, st.lists(numbers, min_size=4, max_size=4), max_size=4)).items()
        },
        draw(st.dictionaries(rest, st.integers(0, 2), max_size=8)),
        draw(st.dictionaries(rest, st.floats(0, 5), max_size=8)),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=st.lists(edits(), min_size=1, max_size=4).filter(lambda some: all(str(edit) for edit in some)))
def test_any_edit_is_a_data_set_of_its_own(case, some):
    c = case("cross_entropy", weighted=True)
    found = retrain(c.objective, c.rows, c.rows, edits=some, tolerance=1e-12)
    for k, edit in enumerate(some):
        x, y, w = by_hand(c, edit)
        own = retrain(c.objective, TensorRows({"x": x}, y, w), c.rows, without=[[0]], tolerance=1e-12)
        np.testing.assert_allclose(found.costs + found.changes[k], own.costs, atol=1e-9)


@pytest.mark.parametrize(
    ("edit", "reason", "field", "says"),
    [
        (Edit(), Reason.INVALID_FIELD, "", "no training row"),
        (Edit.of(without=[30]), Reason.ROW_OUT_OF_RANGE, "", "row 30"),
        (Edit.of(relabel={30: 0}), Reason.ROW_OUT_OF_RANGE, ".relabel", "row 30"),
        (Edit.of(reweight={-1: 1.0}), Reason.ROW_OUT_OF_RANGE, ".reweight", "row -1"),
        (Edit.of(replace={31: {"x": np.zeros(4)}}), Reason.ROW_OUT_OF_RANGE, ".replace", "row 31"),
        (Edit.of(relabel={3: 3}), Reason.TARGET_MISMATCH, ".relabel", "row 3 has the target 3"),
        (Edit.of(relabel={3: 0.5}), Reason.TARGET_MISMATCH, ".relabel", "integer"),
        (Edit.of(reweight={3: -0.5}), Reason.INVALID_FIELD, ".reweight", "-0.5"),
        (Edit.of(reweight={3: np.nan}), Reason.INVALID_FIELD, ".reweight", "nan"),
        (Edit.of(replace={3: {"x": np.zeros(5)}}), Reason.INPUT_MISMATCH, ".replace", "shape"),
        (Edit.of(replace={3: {"y": np.zeros(4)}}), Reason.INPUT_MISMATCH, ".replace", "'y'"),
        (Edit.of(replace={3: {"x": np.full(4, np.nan)}}), Reason.INVALID_FIELD, ".replace", "row 3"),
        (Edit.of(without=[3], relabel={3: 1}), Reason.INVALID_FIELD, ".relabel", "row 3"),
        (Edit.of(without=[3], reweight={3: 1.0}), Reason.INVALID_FIELD, ".reweight", "row 3"),
        (Edit(relabelled=(3, 3), targets=torch.tensor([0, 1])), Reason.INVALID_FIELD, ".relabel", "twice"),
        (Edit(relabelled=(3,)), Reason.TARGET_MISMATCH, ".relabel", "0 targets"),
        (Edit.of(reweight=dict.fromkeys(range(30), 0.0)), Reason.INVALID_FIELD, "", "nothing is left"),
    ],
)
def test_edits_that_cannot_be_are_refused_by_name(case, edit, reason, field, says):
    c = case("cross_entropy")
    with pytest.raises(InvalidArgument, match=says) as error:
        retrain(c.objective, c.rows, c.rows, without=[[1]], edits=[Edit.of(relabel={0: 1}), edit])
    assert (error.value.reason, error.value.violations[0].field) == (reason, f"counterfactuals[1]{field}")


def test_an_edit_that_leaves_a_weight_undetermined_is_refused(case):
    """The only row on which a free coefficient is felt may be reweighted, and may not vanish."""
    c = case("squared_error", l2=0.0, outputs=1)
    x = c.x.clone()
    x[:, 2] = 0
    x[5, 2] = 1.0
    rows = TensorRows({"x": x}, c.y)
    retrain(c.objective, rows, c.rows, rows=[1], edits=[Edit.of(reweight={5: 3.0})])
    gone = Edit.of(replace={5: {"x": x[6].numpy()}})
    with pytest.raises(FailedPrecondition, match=r"with row 5 replaced \(counterfactuals\[1\]\)") as error:
        retrain(c.objective, rows, c.rows, edits=[Edit.of(reweight={5: 3.0}), gone])
    assert error.value.reason is Reason.HESSIAN_SINGULAR


@pytest.fixture(scope="module")
def trained(program):
    """A network with a recipe, its rows, and its tensors."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (N,), generator=generator)
    w = torch.rand(N, generator=generator, dtype=torch.float64) * 2
    objective = Objective(program(network(), torch.randn(3, 4)), ObjectiveSpec("cross_entropy", 0.05, ("*bias",)))
    return objective, x, y, w


def recipe_edits():
    rng = np.random.default_rng(6)
    return [
        Edit.of(without=[3, 4]),
        Edit.of(replace={2: {"x": rng.normal(size=4)}, 20: {"x": rng.normal(size=4)}}),
        Edit.of(relabel={row: row % 3 for row in range(0, N, 2)}),
        Edit.of(reweight=dict.fromkeys(range(5, 15), 0.25)),
        Edit.of(without=[1], replace={0: {"x": rng.normal(size=4)}}, relabel={0: 2, 6: 0}, reweight={0: 3.0, 7: 0.0}),
    ]


@pytest.mark.parametrize("name", ["sgd", "adam, cosine"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("memory", [2**30, 3_000], ids=["together", "one by one"])
def test_a_recipe_on_edited_rows_is_a_plain_loop_over_them(trained, name, weighted, memory):
    objective, x, y, w = trained
    rows = TensorRows({"x": x}, y, w if weighted else None)
    some = recipe_edits()
    found = retrain(objective, rows, rows, edits=some, recipe=Recipe(SPECS[name]), seeds=2, memory_bytes=memory)

    class Data:
        weights = w if weighted else None

    Data.x, Data.y = x, y
    measured = []
    for edit in [Edit(), *some]:
        ex, ey, ew = by_hand(Data, edit)
        losses = []
        for seed in (0, 1):
            everything = torch.ones(N, dtype=torch.bool)
            values = plain(network(), ex, ey, ew, everything, SPECS[name], seed, "kept_n")
            f = torch.func.functional_call(network(), values, (x,))
            losses.append(nn.functional.cross_entropy(f, y, reduction="none"))
        measured.append(torch.stack(losses).mean(dim=0).numpy())
    np.testing.assert_allclose(found.costs, measured[0], atol=1e-8)
    np.testing.assert_allclose(found.changes, np.stack(measured[1:]) - measured[0], atol=1e-8)
    assert (abs(found.changes).max(axis=1) > 1e-3).all()


def test_gradient_norms_of_a_recipe_are_those_of_the_edited_objective(trained):
    """After no step at all the gradient is that of edited data, which a data set of its own shows."""
    objective, x, y, w = trained
    rows = TensorRows({"x": x}, y, w)
    still = Recipe(spec(lr=1e-300, epochs=1))
    found = retrain(objective, rows, rows, edits=recipe_edits(), recipe=still)

    class Data:
        weights = w

    Data.x, Data.y = x, y
    for k, edit in enumerate(recipe_edits()):
        ex, ey, ew = by_hand(Data, edit)
        theta = objective.theta.clone().requires_grad_()
        batch = objective.place(next(TensorRows({"x": ex}, ey).batches(N)))
        risk = (ew * objective.losses(theta, batch)).sum() / N + 0.5 * (objective.l2 * theta.square()).sum()
        risk.backward()
        assert found.gradient_norms[k] == pytest.approx(float(theta.grad.norm()), rel=1e-9)


def test_a_recipe_needs_a_row(trained):
    objective, x, y, _ = trained
    rows = TensorRows({"x": x}, y)
    with pytest.raises(InvalidArgument, match=r"counterfactuals\[0\].*no row") as error:
        retrain(objective, rows, rows, edits=[Edit.of(without=range(N))], recipe=Recipe(spec()))
    assert error.value.reason is Reason.INVALID_FIELD
