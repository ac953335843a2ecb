"""Shares of groups: against sums written out, in resamples, and where they have no meaning."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.engine import group_shares as module
from undue_service.engine.group_shares import group_shares


@given(
    n=st.integers(1, 60),
    kinds=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    weighted=st.booleans(),
)
def test_shares_are_sums_over_the_rows_of_a_group(n, kinds, seed, weighted):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n)
    values = [f"g{k}" for k in rng.integers(kinds, size=n)]
    weights = rng.uniform(0.1, 2, size=n) if weighted else None
    w = np.ones(n) if weights is None else weights
    found = group_shares(scores, values, weights, bootstrap=20, seed=1)
    assert sorted(one.group for one in found) == sorted(set(values))
    assert [one.excess.value for one in found] == sorted((one.excess.value for one in found), reverse=True)
    assert sum(one.share for one in found) == pytest.approx(1)
    assert sum(one.row_share for one in found) == pytest.approx(1)
    for one in found:
        rows = [i for i in range(n) if values[i] == one.group]
        size = sum(abs(scores[i]) for i in rows)
        assert one.rows.tolist() == sorted(rows, key=lambda i: (-abs(scores[i]), i))
        assert one.row_share == pytest.approx(sum(w[i] for i in rows) / w.sum())
        assert one.score.value == pytest.approx(sum(scores[i] for i in rows))
        assert one.share == pytest.approx(size / np.abs(scores).sum())
        assert one.excess.value == pytest.approx(one.share / one.row_share)
        assert one.mean_size == pytest.approx(size / len(rows))
        assert one.signed_share == pytest.approx(one.score.value / scores.sum(), rel=1e-6)


def test_an_interval_has_the_width_of_the_sampling_error(monkeypatch):
    """Of a sum of n numbers ±1.96 σ √n, whether rows are resampled or parts of them."""
    rng = np.random.default_rng(0)
    scores = rng.exponential(size=4000)
    values = ["a"] * 2000 + ["b"] * 2000
    for parts in (10_000, 500):
        monkeypatch.setattr(module, "PARTS", parts)
        [one] = [one for one in group_shares(scores, values, None, bootstrap=4000) if one.group == "a"]
        half = 1.96 * scores[:2000].std() * 2000**0.5
        assert one.score.high - one.score.value == pytest.approx(half, rel=0.1)
        assert one.score.value - one.score.low == pytest.approx(half, rel=0.1)
        assert one.excess.low < one.excess.value < one.excess.high


def test_resamples_are_those_of_the_seed():
    scores, values = np.random.default_rng(0).normal(size=50), ["a", "b"] * 25
    first, again, other = (group_shares(scores, values, None, bootstrap=50, seed=seed) for seed in (1, 1, 2))
    assert [one.excess for one in first] == [one.excess for one in again] != [one.excess for one in other]


def test_a_single_row_has_no_interval():
    found = group_shares(np.array([1.0, 3.0]), ["a", "b"], None)
    assert [(one.group, one.excess.value, one.excess.low, one.excess.high) for one in found] == [
        ("b", 1.5, 1.5, 1.5),
        ("a", 0.5, 0.5, 0.5),
    ]


def test_without_influence_every_share_is_zero():
    found = group_shares(np.zeros(4), ["a", "a", "b", "b"], None)
    assert [(one.share, one.excess.value, one.signed_share) for one in found] == [(0, 0, None)] * 2


def test_scores_that_cancel_have_no_signed_share():
    found = group_shares(np.array([1.0, -1.0]), ["a", "b"], None)
    assert [(one.share, one.signed_share) for one in found] == [(0.5, None)] * 2


def test_rows_without_weight_count_for_nothing():
    found = group_shares(np.array([1.0, 0.0]), ["a", "b"], np.array([1.0, 0.0]))
    assert [(one.group, one.row_share, one.excess.value) for one in found] == [("a", 1, 1), ("b", 0, 0)]
