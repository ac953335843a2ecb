"""Correlations against SciPy, resamples against resamples written out, and intervals that cover what they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from undue_service.engine.agreement import Bootstrap, pooled, within_rows

SMALL = st.integers(-3, 3).map(float)  # many ties


def pair(k=30, m=12, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(k, m)) * 1e-4
    return a, 1.5 * a + noise * 1e-4 * rng.normal(size=(k, m))


def inside(interval):
    return interval.low <= interval.value <= interval.high


def test_values_are_those_of_scipy():
    a, b = pair()
    found = pooled(a, b, Bootstrap.drawn(30, 12, 200, 0))
    assert found.pearson.value == pytest.approx(stats.pearsonr(a.ravel(), b.ravel())[0], abs=1e-12)
    assert found.spearman.value == pytest.approx(stats.spearmanr(a.ravel(), b.ravel())[0], abs=1e-12)
    assert found.slope.value == pytest.approx((a * b).sum() / (a * a).sum(), rel=1e-12)
    assert (found.retrainings, found.pairs) == (30, 360)
    within = within_rows(a, b + 7, Bootstrap.drawn(30, 12, 200, 0))
    assert within.spearman.value == pytest.approx(
        np.mean([stats.spearmanr(a[:, t], b[:, t])[0] for t in range(12)]), abs=1e-10
    )
    da, db = a - a.mean(0), b - b.mean(0)
    assert within.pearson.value == pytest.approx(stats.pearsonr(da.ravel(), db.ravel())[0], abs=1e-9)
    assert within.slope.value == pytest.approx((da * db).sum() / (da * da).sum(), rel=1e-9)
    for one in (found, within):
        assert all(map(inside, (one.pearson, one.spearman, one.slope)))
        assert one.pearson.low < one.pearson.high


@settings(deadline=None)
@given(arrays.arrays(np.float64, (2, 7, 3), elements=SMALL), st.integers(0, 1000))
def test_a_resample_is_the_rows_written_out(values, seed):
    """Ranks, ties and repeated rows: every resample against SciPy on the drawn pairs."""
    a, b = values
    rng = np.random.default_rng(seed)
    rows, tests = rng.integers(0, 7, 7), rng.integers(0, 3, 3)
    counts = Bootstrap(np.bincount(rows, minlength=7)[None] * 1.0, np.bincount(tests, minlength=3)[None] * 1.0)
    drawn = a[rows][:, tests], b[rows][:, tests]
    overall, within = pooled(a, b, counts), within_rows(a, b, counts)

    def check(found, function, x, y):
        if np.ptp(x) and np.ptp(y):
            assert found.value == pytest.approx(function(x, y)[0], abs=1e-9)
        else:
            assert (found.value, found.low, found.high) == (0, -1, 1)

    check(overall.pearson, stats.pearsonr, *(one.ravel() for one in drawn))
    check(overall.spearman, stats.spearmanr, *(one.ravel() for one in drawn))
    known = [(x, y) for x, y in zip(drawn[0].T, drawn[1].T, strict=True) if np.ptp(x) and np.ptp(y)]
    if known:
        assert within.spearman.value == pytest.approx(np.mean([stats.spearmanr(*one)[0] for one in known]), abs=1e-9)
    else:
        assert (within.spearman.low, within.spearman.high) == (-1, 1)


def test_a_perfect_prediction_and_its_opposite():
    a, _ = pair()
    bootstrap = Bootstrap.drawn(30, 12, 100, 0)
    for measure in (pooled, within_rows):
        same, opposite = measure(a, 2 * a, bootstrap), measure(a, -a, bootstrap)
        for found, sign, slope in ((same, 1, 2), (opposite, -1, -1)):
            for interval in (found.pearson, found.spearman):
                assert (interval.value, interval.low, interval.high) == pytest.approx((sign,) * 3)
            assert (found.slope.value, found.slope.low, found.slope.high) == pytest.approx((slope,) * 3)


def test_what_does_not_vary_has_no_correlation():
    a, b = pair()
    bootstrap = Bootstrap.drawn(30, 12, 50, 0)
    for x, y in ((np.full_like(a, 0.1), b), (a, np.full_like(b, 1 / 3))):
        for measure in (pooled, within_rows):
            found = measure(x, y, bootstrap)
            assert (found.pearson.value, found.pearson.low, found.pearson.high) == (0, -1, 1)
            assert (found.spearman.value, found.spearman.low, found.spearman.high) == (0, -1, 1)
    zero = pooled(np.zeros_like(a), b, bootstrap).slope
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)


def test_a_constant_test_row_is_left_out_of_the_mean():
    a, b = pair()
    b[:, 3] = 0.25
    found = within_rows(a, b, Bootstrap.drawn(30, 12, 50, 0))
    others = [stats.spearmanr(a[:, t], b[:, t])[0] for t in range(12) if t != 3]
    assert found.spearman.value == pytest.approx(np.mean(others), abs=1e-10)


def test_few_test_rows_are_not_resampled():
    assert (Bootstrap.drawn(20, 9, 30, 0).tests == 1).all()
    assert (Bootstrap.drawn(20, 10, 30, 0).tests[1:] != 1).any()
    assert (Bootstrap.drawn(20, 10, 30, 0).tests.sum(axis=1) == 10).all()


@pytest.mark.parametrize("m", [4, 20])
@pytest.mark.parametrize("measure", [pooled, within_rows])
def test_intervals_cover(measure, m):
    """b = a + noise that a whole retraining shares and noise of each pair; 95 % intervals of slope and Pearson."""
    rng = np.random.default_rng(5)
    k, shared, own, rounds = 40, 0.6, 0.8, 200
    truth = 1 / np.sqrt(1 + shared**2 + own**2)
    hits = {"pearson": 0, "slope": 0}
    for r in range(rounds):
        a = rng.normal(size=(k, m))
        b = a + shared * rng.normal(size=(k, 1)) + own * rng.normal(size=(k, m))
        found = measure(a, b, Bootstrap.drawn(k, m, 300, r))
        hits["pearson"] += found.pearson.low <= truth <= found.pearson.high
        hits["slope"] += found.slope.low <= 1 <= found.slope.high
    for count in hits.values():
        assert 0.87 <= count / rounds <= 1.0
    naive = found.slope.high - found.slope.low
    assert naive < 1.0, "an interval that covers everything says nothing"
