"""Finding mislabelled rows, against loops over scikit-learn's fits and plain training loops on the same data."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.mislabels import KnownRows, Mislabels
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.mislabels.finding import find_mislabels
from undue_service.engine.mislabels.folds import stratified_folds
from undue_service.engine.mislabels.labels import flipped
from undue_service.engine.mislabels.suspecting import find_suspects
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.initialisation import cold_start
from undue_service.engine.retraining.training import Recipe
from unit.engine.torch_twin import network, plain, spec

N, M, CLASSES, L2 = 120, 60, 3, 0.02
BUDGETS = (0.05, 0.1, 0.2, 0.4, 1.0)
ASKED = Mislabels("m", "t", "s", budgets=BUDGETS, seeds=2, flip=0.15)


def blobs(n, seed):
    """Three clouds in four dimensions, near enough for some rows to lie on the wrong side."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    centres = torch.tensor([[1.6, 0, 0, 0], [0, 1.6, 0, 0], [0, 0, 1.6, 0]], dtype=torch.float64)
    return centres[y] + torch.randn(n, 4, generator=generator, dtype=torch.float64), y


class Problem:
    """A softmax head at the minimum of its objective, its data, and what anybody would fit."""

    def __init__(self, program):
        (self.x, self.y), (self.xt, self.yt) = blobs(N, 1), blobs(M, 2)
        module = nn.Linear(4, CLASSES, dtype=torch.float64)
        W, b = self.fit(self.y.numpy())
        module.load_state_dict({"weight": torch.from_numpy(W), "bias": torch.from_numpy(b)})
        self.objective = Objective(program(module, self.x[:3]), ObjectiveSpec("cross_entropy", L2))
        self.train, self.test = TensorRows({"x": self.x}, self.y), TensorRows({"x": self.xt}, self.yt)

    def fit(self, labels, rows=None):
        """Minimise (1/k) Σ ℓ + l2/2 (‖W‖² + ‖b‖²) over some rows: the bias as a weight of a feature 1."""
        rows = np.arange(N) if rows is None else rows
        X = np.c_[self.x.numpy()[rows], np.ones(len(rows))]
        model = LogisticRegression(C=1 / (L2 * len(rows)), fit_intercept=False, tol=1e-12, max_iter=10_000)
        coefficients = model.fit(X, labels[rows]).coef_
        return np.ascontiguousarray(coefficients[:, :-1]), coefficients[:, -1].copy()

    def logits(self, fit, x):
        W, b = fit
        return x.numpy() @ W.T + b

    def accuracy(self, fit):
        return (self.logits(fit, self.xt).argmax(axis=1) == self.yt.numpy()).mean()


@pytest.fixture(scope="module")
def problem(program):
    return Problem(program)


@pytest.fixture(scope="module")
def curves(problem):
    return find_mislabels(problem.objective, problem.train, problem.test, ASKED)


def loss_of(f, labels):
    return (np.log(np.exp(f - f.max(1, keepdims=True)).sum(1)) + f.max(1)) - f[np.arange(len(f)), labels]


def others_best(values, labels):
    return np.where(np.arange(values.shape[1]) == labels[:, None], -np.inf, values).max(axis=1)


def expected_orders(problem, labels, seed):
    """What each ranking but the random one is, from scikit-learn's fits."""
    f = problem.logits(problem.fit(labels), problem.x)
    own = f[np.arange(N), labels]
    p = np.empty((N, CLASSES))
    for fold in stratified_folds(torch.from_numpy(labels), 5, seed):
        rest = np.setdiff1d(np.arange(N), fold)
        held = problem.logits(problem.fit(labels, rest), problem.x[fold])
        p[fold] = np.exp(held) / np.exp(held).sum(1, keepdims=True)
    t = np.array([p[labels == j, j].mean() for j in range(CLASSES)])
    guess = np.where(p >= t, p, -1).argmax(1)
    errors = (p >= t).any(1) & (guess != labels)
    margins = {
        "loss": loss_of(f, labels),
        "margin": others_best(f, labels) - own,
        "confident_learning": errors + (others_best(p, labels) - p[np.arange(N), labels]) / 2,
    }
    return {name: np.argsort(-score, kind="stable") for name, score in margins.items()}


def test_curves_are_those_of_fits_by_scikit_learn(problem, curves):
    y = problem.y.numpy()
    assert curves.checked.tolist() == [6, 12, 24, 48, 120]
    assert curves.wrong == 18
    assert curves.accuracy_right == problem.accuracy(problem.fit(y))
    for s in range(2):
        mistakes = flipped(problem.y, CLASSES, 0.15, seed=s)
        labels, wrong = mistakes.labels.numpy(), mistakes.wrong
        assert curves.accuracy_wrong[s] == problem.accuracy(problem.fit(labels))
        for name, order in expected_orders(problem, labels, s).items():
            r = curves.rankings.index(name)
            for b, count in enumerate(curves.checked):
                hit = np.intersect1d(order[:count], wrong)
                assert curves.found[r, s, b] == pytest.approx(len(hit) / 18), (name, s, b)
                fixed = labels.copy()
                fixed[hit] = y[hit]
                assert curves.accuracy[r, s, b] == pytest.approx(problem.accuracy(problem.fit(fixed)))


def test_self_influence_is_that_of_the_job_on_the_flipped_labels(problem, curves):
    mistakes = flipped(problem.y, CLASSES, 0.15, seed=1)
    W, b = problem.fit(mistakes.labels.numpy())
    at = problem.objective.at({"weight": torch.from_numpy(W), "bias": torch.from_numpy(b)})
    own = self_influence(at, TensorRows({"x": problem.x}, mistakes.labels), method="exact")
    r = curves.rankings.index("self_influence")
    shares = [np.isin(own.train.rows[:count], mistakes.wrong).sum() / 18 for count in curves.checked]
    np.testing.assert_allclose(curves.found[r, 1], shares)
    assert curves.diagnostics.method == "exact"
    assert curves.diagnostics.leverage_correction
    assert curves.diagnostics.damping == 0
    assert curves.diagnostics.stationarity.relative < 1e-6


def test_rankings_beat_a_random_order_and_all_rows_hold_every_mistake(curves):
    random = curves.found[curves.rankings.index("random")].mean(axis=0)
    for r, name in enumerate(curves.rankings):
        assert (np.diff(curves.found[r], axis=1) >= 0).all()
        assert (curves.found[r, :, -1] == 1).all()
        assert (curves.accuracy[r, :, -1] == curves.accuracy_right).all()
        if name != "random":
            assert (curves.found[r].mean(axis=0) > random + 0.1)[:-1].all(), name
    assert abs(random[3] - 0.4) < 0.25


def test_a_repetition_is_the_same_alone(problem, curves):
    alone = find_mislabels(
        problem.objective,
        problem.train,
        problem.test,
        Mislabels("m", "t", "s", budgets=BUDGETS, seeds=1, seed=1, flip=0.15),
        memory_bytes=300_000,
    )
    np.testing.assert_array_equal(alone.found[:, 0], curves.found[:, 1])
    np.testing.assert_array_equal(alone.accuracy[:, 0], curves.accuracy[:, 1])
    assert any("1 repetition" in text for text in alone.diagnostics.warnings)


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_that_are_known_to_be_wrong(problem, labelled):
    mistakes = flipped(problem.y, CLASSES, 0.1, seed=9)
    labels, y = mistakes.labels.numpy(), problem.y.numpy()
    train = TensorRows({"x": problem.x}, mistakes.labels)
    backwards = mistakes.wrong[::-1].tolist()
    known = KnownRows(tuple(backwards), tuple(y[backwards].tolist()) if labelled else ())
    asked = Mislabels("m", "t", "s", protocol="known", known=known, budgets=(0.1, 0.3), seeds=2, rankings=("loss",))
    found = find_mislabels(problem.objective, train, problem.test, asked)
    order = np.argsort(-loss_of(problem.logits(problem.fit(labels), problem.x), labels), kind="stable")
    for b, count in enumerate((12, 36)):
        hit = np.intersect1d(order[:count], mistakes.wrong)
        np.testing.assert_allclose(found.found[0, :, b], len(hit) / 12)
        if labelled:
            fixed = labels.copy()
            fixed[hit] = y[hit]
            assert (found.accuracy[0, :, b] == problem.accuracy(problem.fit(fixed))).all()
        else:
            # 1/n stays where rows are left out, so that the L2 term weighs as much as before.
            rest = np.setdiff1d(np.arange(N), hit)
            model = LogisticRegression(C=1 / (L2 * N), fit_intercept=False, tol=1e-12, max_iter=10_000)
            coef = model.fit(np.c_[problem.x.numpy(), np.ones(N)][rest], labels[rest]).coef_
            assert found.accuracy[0, 0, b] == problem.accuracy((coef[:, :-1], coef[:, -1]))
    assert (found.accuracy_wrong == problem.accuracy(problem.fit(labels))).all()
    assert any("same in every repetition" in text for text in found.diagnostics.warnings)


def test_suspects_of_the_data_as_it_is(problem):
    asked = Mislabels("m", "t", protocol="as_is", top_k=7)
    found = find_suspects(problem.objective, problem.train, asked)
    assert found.scores.shape == (5, 7)
    own = self_influence(problem.objective, problem.train, method="exact", top_k=7)
    r = found.rankings.index("self_influence")
    np.testing.assert_array_equal(found.rows[r].rows, own.train.rows)
    np.testing.assert_allclose(found.scores[r], own.scores)
    f = problem.logits(problem.fit(problem.y.numpy()), problem.x)
    for name, order in expected_orders(problem, problem.y.numpy(), 0).items():
        facts = found.rows[found.rankings.index(name)]
        np.testing.assert_array_equal(facts.rows, order[:7])
        np.testing.assert_array_equal(facts.predictions, f[order[:7]].argmax(axis=1))
        np.testing.assert_array_equal(facts.targets, problem.y.numpy()[order[:7]])
    assert (np.diff(found.scores) <= 0).all()
    assert "confident_learning" in found.recipe
    short = find_suspects(
        problem.objective, problem.train, Mislabels("m", "t", protocol="as_is", top_k=500, rankings=("loss",))
    )
    assert short.scores.shape == (1, N)
    assert short.recipe == "the registered weights"


def test_a_network_is_trained_by_its_recipe(program):
    x, y = blobs(40, 3)
    xt, yt = blobs(30, 4)
    objective = Objective(program(network(), x[:3]), ObjectiveSpec("cross_entropy", 0.05, ("*bias",)))
    how = spec(optimizer="adam", lr=0.05, epochs=8)
    recipe = Recipe(how, objective.space.unflatten(cold_start(objective, Recipe(spec(init="torch")), 0)))
    asked = Mislabels(
        "m", "t", "s", flip=0.2, budgets=(0.2, 0.5), seeds=2, rankings=("loss", "confident_learning"), folds=4
    )
    found = find_mislabels(objective, TensorRows({"x": x}, y), TensorRows({"x": xt}, yt), asked, recipe=recipe)

    def trained(labels, kept=None):
        module = network()
        module.load_state_dict(recipe.init)
        kept = torch.ones(40, dtype=torch.bool) if kept is None else kept
        ones = torch.ones(40, dtype=torch.float64)
        divisor = "kept_n" if kept.all() else "subset"
        parameters = plain(module, x, labels, ones, kept, how, how.seed, divisor)
        return lambda inputs: torch.func.functional_call(module, parameters, (inputs,)).detach().numpy()

    def accuracy(model):
        return (model(xt).argmax(1) == yt.numpy()).mean()

    for s in range(2):
        mistakes = flipped(y, CLASSES, 0.2, seed=s)
        labels = mistakes.labels.numpy()
        model = trained(mistakes.labels)
        assert found.accuracy_wrong[s] == pytest.approx(accuracy(model))
        order = np.argsort(-loss_of(model(x), labels), kind="stable")
        for b, count in enumerate((8, 20)):
            hit = np.intersect1d(order[:count], mistakes.wrong)
            assert found.found[0, s, b] == pytest.approx(len(hit) / 8)
            fixed = mistakes.labels.clone()
            fixed[hit] = y[hit]
            assert found.accuracy[0, s, b] == pytest.approx(accuracy(trained(fixed)))
    p = np.empty((40, CLASSES))
    for fold in stratified_folds(mistakes.labels, 4, 1):
        kept = torch.ones(40, dtype=torch.bool)
        kept[fold] = False
        held = trained(mistakes.labels, kept)(x[fold])
        p[fold] = np.exp(held) / np.exp(held).sum(1, keepdims=True)
    t = np.array([p[labels == j, j].mean() for j in range(CLASSES)])
    errors = (p >= t).any(1) & (np.where(p >= t, p, -1).argmax(1) != labels)
    order = np.argsort(-(errors + (others_best(p, labels) - p[np.arange(40), labels]) / 2), kind="stable")
    assert found.found[1, 1].tolist() == [np.isin(order[:k], mistakes.wrong).sum() / 8 for k in (8, 20)]
    assert "8 epochs" in found.recipe
    warm = find_mislabels(objective, TensorRows({"x": x}, y), TensorRows({"x": xt}, yt), asked, recipe=Recipe(how))
    assert any("start" in text and "registered weights" in text for text in warm.diagnostics.warnings)


@pytest.mark.parametrize("loss", ["binary_logistic", "smooth_hinge"])
def test_one_output(program, loss):
    x, y = blobs(80, 5)
    y = (y == 0).to(torch.float64)
    objective = Objective(
        program(nn.Linear(4, 1), x[:3]), ObjectiveSpec(loss, 0.01, temperature=0.1 if loss == "smooth_hinge" else 0.0)
    )
    rows = TensorRows({"x": x}, y[:, None])
    found = find_mislabels(objective, rows, rows, Mislabels("m", "t", "s", seeds=2, budgets=(0.2, 1.0)))
    assert found.wrong == 8
    assert (found.found[[0, 1, 2, 3], :, 0].mean(axis=1) > 0.5).all()
    np.testing.assert_array_equal(
        found.found[found.rankings.index("loss")], found.found[found.rankings.index("margin")]
    )
    assert any("same ranking" in text for text in found.diagnostics.warnings)


def test_what_is_refused(problem, case, program):
    regression = case("squared_error")
    with pytest.raises(InvalidArgument, match="regression") as caught:
        find_mislabels(regression.objective, regression.rows, regression.rows, ASKED)
    assert caught.value.reason is Reason.OBJECTIVE_MISMATCH
    unlabelled = TensorRows({"x": problem.xt})
    for train, test in ((problem.train, unlabelled), (unlabelled, problem.test)):
        with pytest.raises(InvalidArgument) as caught:
            find_mislabels(problem.objective, train, test, ASKED)
        assert caught.value.reason is Reason.TARGETS_MISSING
    deep = Objective(program(network(), problem.x[:3]), ObjectiveSpec("cross_entropy", 0.05))
    with pytest.raises(FailedPrecondition, match=r"undue\.Training") as missing:
        find_mislabels(deep, problem.train, problem.test, ASKED)
    assert missing.value.reason is Reason.RECIPE_MISSING
    assert (
        len(find_suspects(deep, problem.train, Mislabels("m", "t", protocol="as_is", rankings=("loss",), top_k=3)).rows)
        == 1
    )
    for known, reason in (
        (KnownRows((N,)), Reason.ROW_OUT_OF_RANGE),
        (KnownRows((0,), (CLASSES,)), Reason.TARGET_MISMATCH),
        (KnownRows((0,), (int(problem.y[0]),)), Reason.TARGET_MISMATCH),
    ):
        with pytest.raises(InvalidArgument) as caught:
            find_mislabels(
                problem.objective, problem.train, problem.test, Mislabels("m", "t", "s", protocol="known", known=known)
            )
        assert caught.value.reason is reason
    with pytest.raises(ResourceExhausted):
        find_mislabels(problem.objective, problem.train, problem.test, ASKED, memory_bytes=1000)
    with pytest.raises(InvalidArgument, match="flip"):
        find_mislabels(problem.objective, problem.train, problem.test, Mislabels("m", "t", "s", flip=0.6))


def test_it_tells_how_far_it_is_and_can_be_stopped(problem):
    said = []

    def told(stage, done, total):
        said.append(stage)
        if stage.startswith("seed 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_mislabels(problem.objective, problem.train, problem.test, ASKED, progress=told)
    assert any(stage.startswith("seed 1 of 2: fits") for stage in said)
