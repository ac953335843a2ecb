"""The factored index answers what the offline method answers, from every kind of tap, however its rows were stored."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.gradients import loss_gradients, training_batches
from undue_service.engine.index import (
    Drift,
    Encoder,
    FittedIndex,
    RowBlock,
    Searcher,
    Shard,
    drifted,
    fit_index,
    measured_recall,
)
from undue_service.engine.index import rows as rows_module
from undue_service.engine.index import scan as scan_module
from undue_service.engine.methods import Problem
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program

FULL_RANK = 10**6


@dataclass
class World:
    """A model with its training rows, and rows to explain."""

    objective: Objective
    x: Tensor
    y: Tensor
    asked: Tensor
    weights: Tensor | None = None

    @property
    def rows(self) -> TensorRows:
        return TensorRows({"x": self.x}, self.y, self.weights)

    def batch(self, targets: Tensor | None = None, some: slice = slice(None)):
        rows = TensorRows({"x": self.asked[some]}, targets)
        return self.objective.place(next(rows.batches(len(self.asked))))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.hidden = nn.Embedding(11, 6), nn.Linear(6, 5)
        self.norm, self.head = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.hidden(self.table(x)))).mean(dim=1))


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    ),
    "tokens": Tokens,
    "binary": lambda: nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 1)),
    "head": lambda: nn.Linear(12, 3),
    "regression": lambda: nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 1)),
}
LOSSES = {"binary": "binary_logistic", "regression": "squared_error"}


def world(
    name: str, *, n: int = 160, weighted: bool = False, dtype=torch.float64, l2: float = 0.02, seed: int = 0
) -> World:
    torch.manual_seed(seed)
    module = MODELS[name]().eval()
    generator = torch.Generator().manual_seed(seed + 1)
    shape = {"convolutions": (1, 4, 4)}.get(name, (12,))
    x, asked = (torch.randn(count, *shape, generator=generator) for count in (n, 6))
    if name == "tokens":
        x, asked = (torch.randint(11, (count, 4), generator=generator) for count in (n, 6))
    y = torch.randint(2 if name == "binary" else 3, (n,), generator=generator)
    if name == "regression":
        y = torch.randn(n, generator=generator)
    exported = torch.export.export(module, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    program = Program.from_exported(exported).to("cpu", dtype)
    objective = Objective(program, ObjectiveSpec(LOSSES.get(name, "cross_entropy"), l2, ("*bias*",)), ())
    weights = torch.rand(n, generator=generator) + 0.1 if weighted else None
    return World(objective, x, y, asked, weights)


def built(of: World, method: str = "ekfac", *, block: int = 50, **options):
    fitted = fit_index(Problem(of.objective, of.rows, **options), method)
    encoder = Encoder(fitted, of.objective)
    return fitted, [encoder.encode(of.objective.place(batch)) for batch in of.rows.batches(block)]


def searcher(of: World, fitted: FittedIndex, shards, **options) -> Searcher:
    return Searcher(fitted, of.objective, shards, of.rows, **options)


def offline(of: World, method: str, targets=None, **options):
    return influence(
        of.objective, of.rows, TensorRows({"x": of.asked}, targets), method=method, top_k=None, **options
    ).scores


def check_lists(found, scores: np.ndarray, top_k: int, tolerance: float = 1e-6) -> None:
    """Hold lists against all scores; rows that tie may stand for each other."""
    scores = scores.astype(np.float64)
    scale = np.abs(scores).max()
    sides = ((1, found.helpful_rows, found.helpful_scores), (-1, found.harmful_rows, found.harmful_scores))
    for sign, rows, values in sides:
        for at in range(len(scores)):
            expected = np.sort((sign * scores[at])[sign * scores[at] > 0])[::-1][:top_k]
            listed = rows[at][rows[at] >= 0]
            assert len(listed) == len(expected) == len(set(listed.tolist()))
            np.testing.assert_allclose(sign * values[at][: len(listed)], expected, atol=tolerance * scale)
            np.testing.assert_allclose(scores[at, listed], values[at][: len(listed)], atol=tolerance * scale)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("name", "method", "weighted"),
    [
        ("mlp", "ekfac", False),
        ("mlp", "ekfac", True),
        ("convolutions", "ekfac", False),
        ("convolutions", "ekfac", True),
        ("tokens", "ekfac", False),
        ("binary", "ekfac", True),
        ("regression", "ekfac", False),
        ("mlp", "gauss_newton", True),
        ("convolutions", "gauss_newton", False),
        ("regression", "gauss_newton", False),
        ("head", "exact", True),
        ("head", "gauss_newton", False),
        ("head", "ekfac", False),
    ],
)
def test_an_index_answers_what_the_offline_method_does(name, method, weighted, exact):
    of = world(name, weighted=weighted)
    damping = 0.05
    fitted, blocks = built(of, method, damping=damping)
    found = searcher(of, fitted, [Shard.of(blocks)]).explain(of.batch(), top_k=5, exact=exact)
    rank = {"rank": FULL_RANK} if method == "ekfac" else {}
    check_lists(found, offline(of, method, damping=damping, **rank), 5)
    assert found.test.predictions.tolist() == found.test.targets.tolist(), "without targets the prediction is explained"
    assert found.train.rows.tolist() == found.instances.index.tolist()
    torch.testing.assert_close(found.instances.inputs["x"], of.x[found.instances.index], rtol=0, atol=0)
    assert found.train.targets.tolist() == pytest.approx(of.y[found.instances.index].tolist())


@pytest.mark.parametrize("measurement", ["loss", "logit", "margin"])
def test_measurements_and_targets(measurement):
    of = world("mlp")
    fitted, blocks = built(of)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    found = searcher(of, fitted, [Shard.of(blocks)]).explain(of.batch(targets), measurement=measurement, top_k=7)
    check_lists(found, offline(of, "ekfac", targets, measurement=measurement, rank=FULL_RANK), 7)
    assert found.test.targets.tolist() == targets.tolist()


def test_leverage_is_corrected_as_offline_and_left_out_where_asked():
    of = world("head", n=60, l2=0.3)
    by_default, _ = built(of, "exact")
    assert by_default.factors.leverage_correction
    for wanted in (True, False):
        fitted, blocks = built(of, "exact", leverage_correction=wanted)
        assert (blocks[0].residuals is not None) == wanted
        found = searcher(of, fitted, [Shard.of(blocks)]).explain(of.batch(), top_k=5, exact=True)
        check_lists(found, offline(of, "exact", leverage_correction=wanted), 5)
    with pytest.raises(InvalidArgument) as refused:
        built(of, "ekfac", leverage_correction=True)
    assert refused.value.reason is Reason.LEVERAGE_UNAVAILABLE


@pytest.mark.parametrize("name", ["mlp", "convolutions", "tokens", "head"])
def test_screening_stops_early_and_still_finds_the_lists(name, monkeypatch):
    """With few rows a block, most blocks are never looked at, and the candidates are few beside all rows."""
    for module in (rows_module, scan_module):
        monkeypatch.setattr(module, "BLOCK", 32)
    of = world(name, n=1500)
    of.weights = torch.exp(3 * torch.randn(1500, generator=torch.Generator().manual_seed(7)))
    of.weights /= of.weights.mean()  # a few rows weigh much, so that the bounds differ
    method = "exact" if name == "head" else "ekfac"
    fitted, blocks = built(of, method, damping=0.2)
    whole = [Shard.of(blocks)]
    scores = offline(of, method, damping=0.2, **({} if name == "head" else {"rank": FULL_RANK}))
    for exact in (False, True):
        found = searcher(of, fitted, whole).explain(of.batch(), top_k=3, exact=exact)
        check_lists(found, scores, 3)
        alone = [searcher(of, fitted, whole).explain(of.batch(some=slice(at, at + 1)), top_k=3) for at in range(6)]
        assert min(one.scanned for one in alone) < len(of.x)


@pytest.mark.parametrize("name", ["mlp", "convolutions", "head"])
def test_how_rows_are_stored_changes_nothing(name):
    of = world(name)
    method = "exact" if name == "head" else "ekfac"
    fitted, blocks = built(of, method)
    wanted = searcher(of, fitted, [Shard.of(blocks)]).explain(of.batch(), top_k=5)
    _, others = built(of, method, block=17)
    halves = [Shard.of(others[:4]), Shard.of(others[4:])]
    again = FittedIndex.of(of.objective, fitted.tensors(), fitted.settings())
    reread = [Shard.from_tensors(Shard.of([RowBlock.of(one.tensors()) for one in others]).tensors())]
    for how, use in ((halves, fitted), ([Shard.joined(halves)], fitted), (reread, again), (halves[::-1], again)):
        found = searcher(of, use, how).explain(of.batch(), top_k=5)
        np.testing.assert_array_equal(found.helpful_rows, wanted.helpful_rows)
        np.testing.assert_array_equal(found.harmful_rows, wanted.harmful_rows)
        np.testing.assert_allclose(found.helpful_scores, wanted.helpful_scores, rtol=1e-9)
    shard, merged = Shard.of(blocks), Shard.joined(halves)
    assert shard.rows.tolist() == merged.rows.tolist()
    assert all(bool((one.data == other.data).all()) for one, other in zip(shard.numbers, merged.numbers, strict=True))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "head"])
def test_rows_are_asked_about_one_by_one_where_memory_is_short(name, exact, monkeypatch):
    of = world(name, weighted=True)
    method = "exact" if name == "head" else "ekfac"
    fitted, blocks = built(of, method)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    wanted = searcher(of, fitted, [Shard.of(blocks)]).explain(of.batch(targets), top_k=5, exact=exact)
    asked: list[int] = []
    explain = Searcher._explain
    monkeypatch.setattr(
        Searcher, "_explain", lambda self, batch, *more: asked.append(len(batch.index)) or explain(self, batch, *more)
    )
    found = searcher(of, fitted, [Shard.of(blocks)], memory_bytes=1).explain(of.batch(targets), top_k=5, exact=exact)
    assert asked == [1] * 6
    for name in ("helpful_rows", "harmful_rows"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_allclose(found.helpful_scores, wanted.helpful_scores, rtol=1e-9)
    assert found.test.targets.tolist() == targets.tolist()
    assert found.train.rows.tolist() == found.instances.index.tolist() == wanted.train.rows.tolist()
    torch.testing.assert_close(found.instances.inputs["x"], wanted.instances.inputs["x"], rtol=0, atol=0)
    np.testing.assert_allclose(found.train.losses, wanted.train.losses)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["mlp", "head"])
def test_erased_rows_are_never_listed_and_leave_no_number_behind(name, exact):
    of = world(name)
    method = "exact" if name == "head" else "ekfac"
    fitted, blocks = built(of, method)
    whole = Shard.of(blocks)
    first = searcher(of, fitted, [whole]).explain(of.batch(), top_k=5)
    erased = sorted({*first.helpful_rows.ravel().tolist(), *first.harmful_rows.ravel().tolist()})
    rank = {} if name == "head" else {"rank": FULL_RANK}
    scores = offline(of, method, **rank)
    scores[:, erased] = 0
    found = searcher(of, fitted, [whole], erased=erased).explain(of.batch(), top_k=5, exact=exact)
    check_lists(found, scores, 5)
    less = whole.without(torch.tensor(erased))
    assert len(less) == len(whole) - len(erased)
    assert not set(less.rows.tolist()) & set(erased)
    check_lists(searcher(of, fitted, [less]).explain(of.batch(), top_k=5, exact=exact), scores, 5)
    rest = Shard.of(blocks).without(torch.arange(50))
    assert sorted(rest.rows.tolist()) == list(range(50, len(of.x)))


@pytest.mark.parametrize("name", ["mlp", "head"])
def test_rows_are_appended_with_the_scale_of_the_fit(name):
    """A row that comes later scores as if its loss had a share of 1/n in the objective that was fitted."""
    of = world(name, n=120)
    method = "exact" if name == "head" else "ekfac"
    first = World(of.objective, of.x[:80], of.y[:80], of.asked)
    fitted, blocks = built(first, method, leverage_correction=False if name == "head" else None)
    encoder = Encoder(fitted, of.objective)
    later = [encoder.encode(batch) for batch in training_batches(of.objective, of.rows, 40, range(80, 120))]
    found = searcher(of, fitted, [Shard.of(blocks), Shard.of(later)]).explain(of.batch(), top_k=4, exact=True)
    asked = of.objective.explained(of.batch())
    solved = searcher(of, fitted, [Shard.of(blocks)])._solved(loss_gradients(of.objective, asked))
    [everything] = training_batches(of.objective, of.rows, 120)
    scores = (loss_gradients(of.objective, everything).dot(solved) / 80).T.numpy()
    check_lists(found, scores, 4)


@pytest.mark.parametrize(
    ("name", "method"), [("mlp", "ekfac"), ("convolutions", "ekfac"), ("head", "exact"), ("tokens", "ekfac")]
)
def test_keys_bound_every_score(name, method):
    of = world(name, weighted=name == "mlp")
    fitted, blocks = built(of, method, damping=0.01)
    whole = Shard.of(blocks)
    asked = of.objective.explained(of.batch())
    keys = fitted.keys(fitted.rotated(loss_gradients(of.objective, asked)))
    scores = np.abs(offline(of, method, damping=0.01, **({} if method == "exact" else {"rank": FULL_RANK})))
    bounds = (keys[:, None] * whole.keys / fitted.rows).numpy()
    assert (scores[:, whole.rows.numpy()] <= bounds * (1 + 1e-5)).all()
    assert (whole.keys.diff() <= 0).all()


def test_recall_is_measured_and_notices_a_search_that_finds_nothing(monkeypatch):
    of = world("mlp", n=400)
    fitted, blocks = built(of)
    numbers, reference = (torch.cat([getattr(block, name) for block in blocks]) for name in ("rows", "reference"))
    assert len(fitted.recalled) == 32
    of_batch = training_batches(of.objective, of.rows, 32, fitted.recalled.tolist())
    scores = influence(
        of.objective, of.rows, of.rows, rows=fitted.recalled.tolist(), method="ekfac", top_k=None, rank=FULL_RANK
    ).scores
    assert len(next(of_batch).index) == 32
    np.testing.assert_allclose(reference.T.numpy(), scores, atol=1e-6 * np.abs(scores).max())
    search = searcher(of, fitted, [Shard.of(blocks)])
    assert measured_recall(search, fitted, of.objective, numbers, reference) == 1.0
    half = searcher(of, fitted, [Shard.of(blocks)], erased=range(0, 400, 2))
    assert 0.3 < measured_recall(half, fitted, of.objective, numbers, reference) < 0.7


def test_screening_keeps_what_the_hessian_is_small_or_negative_in():
    """There rows have gradients all the same, and 1/(Λ + l2 + λ) is largest."""
    of = world("convolutions", n=600, seed=1)
    fitted, blocks = built(of, "exact", damping=0.1)
    assert int((fitted.regions[0].eigenvalues < 0).sum()) > 10
    numbers, reference = (torch.cat([getattr(block, name) for block in blocks]) for name in ("rows", "reference"))
    search = searcher(of, fitted, [Shard.of(blocks)])
    assert measured_recall(search, fitted, of.objective, numbers, reference) > 0.97


def test_staleness_is_nothing_for_rows_alike_and_grows_with_rows_that_are_not():
    of = world("mlp", n=2000)
    first = World(of.objective, of.x[:1000], of.y[:1000], of.asked)
    fitted, _ = built(first, damping=0.01)
    none = Drift.none(fitted)
    assert none.staleness(fitted) == 0
    alike = drifted(none, fitted, of.objective, TensorRows({"x": of.x[1000:]}, of.y[1000:]))
    strange = drifted(none, fitted, of.objective, TensorRows({"x": 4 * of.x[1000:]}, of.y[1000:]))
    assert alike.staleness(fitted) < 0.1 < 0.15 < strange.staleness(fitted)
    again = Drift.of(alike.tensors())
    assert again.rows == 1000
    assert again.staleness(fitted) == alike.staleness(fitted)
    same = drifted(none, fitted, of.objective, first.rows)
    assert same.staleness(fitted) < 1e-6, "the very rows of the fit move nothing"
    halves = drifted(none, fitted, of.objective, TensorRows({"x": of.x[1000:1500]}, of.y[1000:1500]))
    halves = drifted(halves, fitted, of.objective, TensorRows({"x": of.x[1500:]}, of.y[1500:]))
    assert halves.staleness(fitted) == pytest.approx(alike.staleness(fitted))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(1, 60), st.integers(0, 10), st.booleans())
def test_small_indexes(n, top_k, erased, exact):
    of = world("mlp", n=n, seed=n)
    fitted, blocks = built(of, damping=0.1, block=7)
    gone = list(range(min(erased, n - 1)))
    scores = offline(of, "ekfac", damping=0.1, rank=FULL_RANK)
    scores[:, gone] = 0
    found = searcher(of, fitted, [Shard.of(blocks)], erased=gone).explain(of.batch(), top_k=top_k, exact=exact)
    assert found.helpful_rows.shape == (6, top_k)
    check_lists(found, scores, top_k)


def test_single_precision_agrees():
    of = world("mlp", dtype=torch.float32)
    fitted, blocks = built(of)
    found = searcher(of, fitted, [Shard.of(blocks)]).explain(of.batch(), top_k=5)
    check_lists(found, offline(world("mlp"), "ekfac", rank=FULL_RANK), 5, tolerance=1e-4)


def test_what_an_index_cannot_hold_is_refused():
    of = world("mlp")
    with pytest.raises(InvalidArgument, match="exact, gauss_newton, ekfac") as refused:
        built(of, "lissa")
    assert refused.value.reason is Reason.METHOD_UNKNOWN
    regression = world("regression")
    fitted, blocks = built(regression)
    search = searcher(regression, fitted, [Shard.of(blocks)])
    with pytest.raises(InvalidArgument, match="measurement"):
        search.explain(regression.batch(), measurement="margin")
    singular = world("mlp", l2=0)
    with pytest.raises(FailedPrecondition) as refused:
        built(singular, "gauss_newton", damping=0.0)
    assert refused.value.reason in (Reason.HESSIAN_SINGULAR, Reason.HESSIAN_NOT_POSITIVE_DEFINITE)
