"""The harness's statistics against values worked out by hand, and against scipy's where it is the judge."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics import bootstrap, lds, pearson, ranks, relative_difference, spearman


def test_ranks_share_ties():
    np.testing.assert_array_equal(
        ranks(np.array([[3.0, 1.0, 3.0, 2.0], [5.0, 5.0, 5.0, 0.0]])), [[2.5, 0.0, 2.5, 1.0], [2.0, 2.0, 2.0, 0.0]]
    )


def test_correlations_are_scipys_row_by_row():
    generator = np.random.default_rng()
    a, b = generator.integers(6, size=(2, 4, 25)).astype(float)
    np.testing.assert_allclose(pearson(a, b), [stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(spearman(a, b), [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])


def test_a_constant_row_correlates_with_nothing():
    assert np.isnan(pearson(np.ones((1, 3)), np.arange(3.0)[None]))[0]


def test_relative_difference():
    assert relative_difference(np.array([1.0, -3.0]), np.array([1.5, -4.0])) == 0.25


def test_lds_by_hand():
    # Row 0 is the more helpful: without it the loss is higher.
    scores = np.array([[2.0, 1.0, -1.0]])
    subsets = np.array([[True, True, False], [True, False, True], [False, True, True]])
    # Predicted −3, −1, 0.
    assert lds(scores, subsets, np.array([[0.1], [0.2], [0.9]]))[0] == 1
    assert lds(scores, subsets, np.array([[0.9], [0.2], [0.1]]))[0] == -1
    assert lds(scores, subsets, np.array([[0.2], [0.1], [0.9]]))[0] == pytest.approx(0.5)


def test_lds_of_the_truth_of_a_linear_model_is_one():
    generator = np.random.default_rng()
    scores, subsets = generator.normal(size=(4, 9)), generator.random((12, 9)) < 0.5
    losses = 3 - subsets @ scores.T
    np.testing.assert_allclose(lds(scores, subsets, losses), 1)


def test_bootstrap_covers_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        found = bootstrap(generator.normal(0.3, 1, size=(1, 80)), draws=300)
        assert found.low < found.mean < found.high
        covered += found.low <= 0.3 <= found.high
    assert 85 <= covered <= 100


def test_bootstrap_of_pairs_is_narrow_where_contenders_move_together():
    generator = np.random.default_rng(4)
    base = generator.normal(size=(5, 100))
    better = base + 0.1 + generator.normal(scale=0.01, size=base.shape)
    paired, alone = bootstrap(better - base), bootstrap(better)
    assert paired.mean == pytest.approx(0.1, abs=0.01)
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_bootstrap_draws_models_too():
    of_models = np.repeat([[0.0], [1.0]], 500, axis=1)
    found = bootstrap(of_models)
    assert (found.mean, found.low, found.high) == (0.5, 0, 1)
