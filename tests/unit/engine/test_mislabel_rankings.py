"""Rankings of suspicious rows on constructed data, and confident learning against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.mislabels import RANKINGS, KnownRows, Mislabels, check_mislabels
from undue_service.engine.losses import BinaryLogistic, CrossEntropy
from undue_service.engine.mislabels.folds import stratified_folds
from undue_service.engine.mislabels.intervals import mean_interval, t_quantile
from undue_service.engine.mislabels.labels import flipped
from undue_service.engine.mislabels.rankings import Fitted, find_ranking, ranked
from undue_service.engine.mislabels.rankings.base import probabilities
from undue_service.engine.mislabels.rankings.confident_learning import confident_thresholds, label_errors


def unasked():
    raise AssertionError("this ranking does not look at it")


def fitted(f, labels, loss=None, p=None):
    return Fitted(
        loss or CrossEntropy(),
        torch.as_tensor(f, dtype=torch.float64),
        torch.as_tensor(labels),
        torch.Generator().manual_seed(0),
        self_influence=unasked,
        out_of_sample=unasked if p is None else lambda: torch.as_tensor(p, dtype=torch.float64),
    )


def by_definition(p, labels):
    """Northcutt et al., equations 1 and 2, row by row: thresholds and which rows are errors."""
    n, m = p.shape
    t = [np.mean([p[i, j] for i in range(n) if labels[i] == j]) if j in labels else np.inf for j in range(m)]
    errors = []
    for i in range(n):
        confident = [j for j in range(m) if p[i, j] >= t[j] - 1e-9]
        errors.append(bool(confident) and max(confident, key=lambda j: p[i, j]) != labels[i])
    return t, errors


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(1, 30), st.integers(0, 2**31))
def test_confident_learning_is_its_definition(classes, n, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n).round(3)
    labels = rng.integers(0, classes, n)
    t, errors = by_definition(p, labels.tolist())
    given_p, given_labels = torch.from_numpy(p), torch.from_numpy(labels)
    np.testing.assert_allclose(confident_thresholds(given_p, given_labels), t)
    assert label_errors(given_p, given_labels).tolist() == errors
    score = find_ranking("confident_learning").score(fitted(p, labels, p=p)).numpy()
    others = np.where(np.arange(classes) == labels[:, None], -np.inf, p).max(axis=1)
    np.testing.assert_allclose(score, errors + (others - p[np.arange(n), labels] + 1) / 2)
    wrong = np.array(errors)
    assert not wrong.any() or wrong.all() or score[wrong].min() >= score[~wrong].max()


def test_a_class_of_low_confidence_has_a_low_threshold():
    # Class 1 never exceeds 0.4, and 0.4 is a lot for it: a row labelled 0 with p = (0.6, 0.4) is taken for class 1 only
    # because no row labelled 0 is confident at 0.6.
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.7, 0.3]])
    labels = np.array([0, 0, 0, 1, 1])
    assert label_errors(torch.from_numpy(p), torch.from_numpy(labels)).tolist() == [False, False, True, False, False]
    order = ranked(find_ranking("confident_learning").score(fitted(p, labels, p=p))).tolist()
    assert order[0] == 2


def test_loss_and_margin_of_three_classes():
    f = [[0.0, 3.0, -1.0], [2.0, 1.9, 1.9], [5.0, 0.0, 0.0], [0.0, 0.0, 0.3]]
    labels = [0, 0, 0, 2]
    loss = find_ranking("loss").score(fitted(f, labels))
    torch.testing.assert_close(loss, -torch.log_softmax(torch.tensor(f, dtype=torch.float64), 1)[range(4), labels])
    torch.testing.assert_close(
        find_ranking("margin").score(fitted(f, labels)), torch.tensor([3.0, -0.1, -5.0, -0.3], dtype=torch.float64)
    )
    # Three classes near each other: the loss ranks row 1 before row 3, the margin row 1 too, but by how much differs.
    assert ranked(loss).tolist() == [0, 1, 3, 2]


def test_margin_and_loss_of_two_classes_are_the_same_order():
    f = torch.randn(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4
    labels = torch.randint(2, (200,), generator=torch.Generator().manual_seed(2))
    seen = fitted(f, labels, BinaryLogistic())
    orders = [ranked(find_ranking(name).score(seen)).tolist() for name in ("loss", "margin")]
    assert orders[0] == orders[1]
    two = torch.cat([torch.zeros_like(f), f], dim=1)
    assert ranked(find_ranking("margin").score(fitted(two, labels))).tolist() == orders[0]
    torch.testing.assert_close(probabilities(f), torch.softmax(two, dim=1))
    torch.testing.assert_close(probabilities(f)[:, 1], torch.sigmoid(f[:, 0]))


def test_ties_are_taken_in_the_order_of_the_rows():
    assert ranked(torch.tensor([1.0, 3.0, 1.0, 3.0, 0.0])).tolist() == [1, 3, 0, 2, 4]


def test_a_random_order_is_a_permutation_by_seed():
    orders = {
        seed: ranked(
            find_ranking("random").score(
                Fitted(
                    CrossEntropy(),
                    torch.zeros(50, 2),
                    torch.zeros(50, dtype=torch.int64),
                    torch.Generator().manual_seed(seed),
                    unasked,
                    unasked,
                )
            )
        ).tolist()
        for seed in (0, 0, 1)
    }
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] != orders[1]


def test_flips_are_a_share_of_the_rows_and_every_other_class_is_as_likely():
    labels = torch.arange(4).repeat(2500)
    found = flipped(labels, 4, 0.3, seed=5)
    assert len(found.wrong) == 3000
    assert (np.diff(found.wrong) > 0).all()
    given_labels = found.labels.numpy()
    assert (np.flatnonzero(given_labels != labels.numpy()) == found.wrong).all()
    shifts = np.bincount((given_labels - labels.numpy())[found.wrong] % 4, minlength=4)
    assert shifts[0] == 0
    assert stats.chisquare(shifts[1:]).pvalue > 1e-3
    assert stats.chisquare(np.bincount(labels.numpy()[found.wrong])).pvalue > 1e-3
    again, other = flipped(labels, 4, 0.3, seed=5), flipped(labels, 4, 0.3, seed=6)
    assert torch.equal(again.labels, found.labels)
    assert not torch.equal(other.labels, found.labels)
    assert len(flipped(labels[:4], 4, 0.01, seed=0).wrong) == 1


def test_mistakes_are_edits_of_what_is_registered():
    labels = torch.tensor([0, 1, 2, 0, 1])
    planted = flipped(labels, 3, 0.4, seed=0)
    assert planted.after(np.array([True, True])).relabelled == ()
    first = planted.after(np.array([False, True]))
    assert first.relabelled == (int(planted.wrong[0]),)
    assert first.targets.tolist() == [int(planted.labels[planted.wrong[0]])]
    rest = planted.without(planted.wrong[:1])
    assert rest.without == (int(planted.wrong[0]),)
    assert rest.relabelled == (int(planted.wrong[1]),)


def test_folds_hold_each_label_alike():
    labels = torch.tensor([0] * 23 + [1] * 10 + [2] * 2)
    folds = stratified_folds(labels, 5, seed=1)
    assert np.sort(np.concatenate(folds)).tolist() == list(range(35))
    for fold in folds:
        assert len(fold) == 7
        assert np.bincount(labels.numpy()[fold], minlength=3)[0] in (4, 5)
        assert np.bincount(labels.numpy()[fold], minlength=3)[1] == 2
    assert len(stratified_folds(labels[:3], 5, seed=1)) == 3
    # The folds of a seed tell nothing of its flips.
    rows = torch.zeros(4000, dtype=torch.int64)
    wrong = flipped(rows, 2, 0.25, seed=3).wrong
    inside = [np.isin(wrong, fold).sum() for fold in stratified_folds(rows, 5, seed=3)]
    assert stats.chisquare(inside).pvalue > 1e-3


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 39])
def test_student_quantiles(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_an_interval_of_the_mean():
    values = [0.3, 0.35, 0.41, 0.28]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    alone = mean_interval([0.5])
    assert (alone.value, alone.low, alone.high) == (0.5, -np.inf, np.inf)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"flip": 0.0}, "job.mislabels.flip"),
        ({"flip": 0.51}, "job.mislabels.flip"),
        ({"flip": float("nan")}, "job.mislabels.flip"),
        ({"budgets": ()}, "job.mislabels.budgets"),
        ({"budgets": (0.0, 0.1)}, "job.mislabels.budgets"),
        ({"budgets": (0.1, 1.1)}, "job.mislabels.budgets"),
        ({"budgets": (0.2, 0.1)}, "job.mislabels.budgets"),
        ({"seeds": 0}, "job.mislabels.seeds"),
        ({"folds": 1}, "job.mislabels.folds"),
        ({"top_k": 0}, "job.mislabels.top_k"),
        ({"rankings": ()}, "job.mislabels.rankings"),
        ({"rankings": ("loss", "guess")}, "job.mislabels.rankings"),
        ({"rankings": ("loss", "loss")}, "job.mislabels.rankings"),
        ({"rankings": ("loss",), "damping": 0.1}, "job.mislabels.damping"),
        ({"rankings": ("loss",), "method": "exact"}, "job.mislabels.method"),
        ({"protocol": "known", "known": KnownRows(())}, "job.mislabels.known.rows"),
        ({"protocol": "known", "known": KnownRows((1, 1))}, "job.mislabels.known.rows"),
        ({"protocol": "known", "known": KnownRows((1, 2), (0,))}, "job.mislabels.known.labels"),
    ],
)
def test_what_cannot_be_asked(changes, field):
    with pytest.raises(InvalidArgument) as caught:
        check_mislabels(Mislabels("m", "t", "s", **changes), "job.mislabels")
    assert caught.value.violations[0].field == field


def test_every_ranking_of_the_domain_is_there():
    assert [find_ranking(name).name for name in RANKINGS] == list(RANKINGS)
    with pytest.raises(InvalidArgument, match="there are"):
        find_ranking("guess")
