"""How well predicted changes agree with measured ones: correlations and slope, with bootstrap intervals.

Predicted a and measured b are (k, m): k retrainings, m test rows. Pairs of one retraining are not independent, so it is
retrainings that are resampled and, where there are at least `FEW_TEST_ROWS`, test rows too, the two independently (Owen
2007, the pigeonhole bootstrap): an interval then is about other test rows as well. With fewer it is about these rows
alone. Intervals are percentiles 2.5 and 97.5 (Efron & Tibshirani 1993, chapter 13).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undue_service.domain.reports import Agreement, Interval

Floats = NDArray[np.float64]

FEW_TEST_ROWS = 10
_NUMBERS_AT_ONCE = 2**20
_LEVEL = (2.5, 97.5)
_CONSTANT = 1e-12
"""Spread over size below which values count as one: what differs is rounding."""


@dataclass(frozen=True)
class Bootstrap:
    """How often each retraining and each test row is drawn in each resample."""

    retrainings: Floats
    """(B + 1, k). The first row is the sample itself: ones."""
    tests: Floats
    """(B + 1, m)."""

    @classmethod
    def drawn(cls, k: int, m: int, resamples: int, seed: int) -> "Bootstrap":
        """Draw resamples."""
        rng = np.random.default_rng([seed, k, m])

        def counts(size: int) -> Floats:
            return rng.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)

        tests = counts(m) if m >= FEW_TEST_ROWS else np.ones((resamples, m))
        return cls(np.vstack([np.ones(k), counts(k)]), np.vstack([np.ones(m), tests]))


def pooled(predicted: Floats, measured: Floats, bootstrap: Bootstrap) -> Agreement:
    """Return the agreement over all pairs together."""
    a, b = (_spread(values, None) for values in (predicted, measured))
    ranks = []
    w = bootstrap.retrainings, bootstrap.tests
    orders = _Ranks(a.reshape(-1)), _Ranks(b.reshape(-1))
    for at in _chunks(len(w[0]), a.size):
        weights = (w[0][at][:, :, None] * w[1][at][:, None, :]).reshape(len(w[0][at]), -1)
        ranks.append(_correlation(orders[0].of(weights), orders[1].of(weights), weights))
    sums = _Sums.of(a, b, bootstrap)
    return Agreement(
        pearson=_interval(sums.total().correlation()),
        spearman=_interval(np.concatenate(ranks)),
        slope=_slope(_Sums.of(predicted, measured, bootstrap).total()),
        retrainings=len(predicted),
        pairs=predicted.size,
    )


def within_rows(predicted: Floats, measured: Floats, bootstrap: Bootstrap) -> Agreement:
    """Return the agreement over the retrainings, each test row around its own means.

    Pearson and slope pool the deviations from the means; Spearman's is that of each test row, averaged over those that
    have one: the linear datamodelling score (Park et al. 2023, definition 2.4).
    """
    a, b = (_spread(values, 0) for values in (predicted, measured))
    correlations = np.empty((len(bootstrap.retrainings), a.shape[1]))
    for t in range(a.shape[1]):
        orders = _Ranks(a[:, t]), _Ranks(b[:, t])
        for at in _chunks(len(correlations), len(a)):
            weights = bootstrap.retrainings[at]
            correlations[at, t] = _correlation(orders[0].of(weights), orders[1].of(weights), weights)
    known = np.isfinite(correlations)
    weights = bootstrap.tests * known
    total = (np.where(known, correlations, 0) * weights).sum(axis=1)
    count = weights.sum(axis=1)
    spearman = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    sums = _Sums.of(a, b, bootstrap).centred().total()
    return Agreement(
        pearson=_interval(sums.correlation()),
        spearman=_interval(spearman),
        slope=_slope(sums),
        retrainings=len(predicted),
        pairs=predicted.size,
    )


def is_constant(values: Floats, axis: int | None = None) -> NDArray[np.bool_]:
    """Return whether values are one number but for rounding: all of them, or along an axis."""
    return np.asarray(np.ptp(values, axis=axis) <= _CONSTANT * np.abs(values).max(axis=axis))


def _spread(values: Floats, axis: int | None) -> Floats:
    """Return the deviations from the mean, of all or along an axis, exactly 0 where they are rounding."""
    keep = axis is not None
    centred: Floats = values - values.mean(axis=axis, keepdims=keep)
    constant = np.expand_dims(is_constant(values, axis), axis) if axis is not None else is_constant(values)
    return np.where(constant, 0.0, centred)


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of 1, a, b, a², b², ab for each resample: (B, m) of each test row, or (B,)."""

    one: Floats
    a: Floats
    b: Floats
    aa: Floats
    bb: Floats
    ab: Floats
    tests: Floats

    @classmethod
    def of(cls, a: Floats, b: Floats, bootstrap: Bootstrap) -> "_Sums":
        W = bootstrap.retrainings
        one = np.repeat(W.sum(axis=1, keepdims=True), a.shape[1], axis=1)
        return cls(one, W @ a, W @ b, W @ (a * a), W @ (b * b), W @ (a * b), bootstrap.tests)

    def centred(self) -> "_Sums":
        """Return the sums of the deviations from each test row's own means."""
        zero = np.zeros_like(self.a)
        return _Sums(
            self.one,
            zero,
            zero,
            np.maximum(self.aa - self.a**2 / self.one, 0),
            np.maximum(self.bb - self.b**2 / self.one, 0),
            self.ab - self.a * self.b / self.one,
            self.tests,
        )

    def total(self) -> "_Sums":
        """Return the sums over the test rows."""
        parts = ((values * self.tests).sum(axis=1) for values in (self.one, self.a, self.b, self.aa, self.bb, self.ab))
        return _Sums(*parts, self.tests)

    def correlation(self) -> Floats:
        """Return Pearson's correlation; NaN where a or b does not vary."""
        va, vb = self.aa - self.a**2 / self.one, self.bb - self.b**2 / self.one
        varies = (va > _CONSTANT * self.aa) & (vb > _CONSTANT * self.bb)
        root = np.sqrt(np.where(varies, va * vb, 1))
        return np.where(varies, np.clip((self.ab - self.a * self.b / self.one) / root, -1, 1), np.nan)

    def slope(self) -> Floats:
        """Return that of b on a through the origin; NaN where a is 0."""
        return np.divide(self.ab, self.aa, out=np.full_like(self.ab, np.nan), where=self.aa > 0)


class _Ranks:
    """Mid-ranks of some numbers in resamples of them."""

    def __init__(self, values: Floats) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self._last = np.append(np.flatnonzero(new)[1:] - 1, len(values) - 1)
        self._group = np.empty(len(values), dtype=np.int64)
        self._group[self._order] = np.cumsum(new) - 1

    def of(self, weights: Floats) -> Floats:
        """Return the ranks (B, N) where each number is there as often as the weights (B, N) say, less ½."""
        ends = np.cumsum(weights[:, self._order], axis=1)[:, self._last]
        starts = np.concatenate([np.zeros((len(ends), 1)), ends[:, :-1]], axis=1)
        return (0.5 * (starts + ends))[:, self._group]


def _correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    total = weights.sum(axis=1, keepdims=True)
    a = a - (a * weights).sum(axis=1, keepdims=True) / total
    b = b - (b * weights).sum(axis=1, keepdims=True) / total
    va, vb = (a * a * weights).sum(axis=1), (b * b * weights).sum(axis=1)
    root = np.sqrt(va * vb)
    covariance = (a * b * weights).sum(axis=1)
    return np.divide(covariance, root, out=np.full(len(root), np.nan), where=root > 0)


def _interval(values: Floats) -> Interval:
    """Return the first value, with percentiles of the others; without a value nothing is known of a correlation."""
    if not np.isfinite(values[0]):
        return Interval(0.0, -1.0, 1.0)
    return _percentiles(values)


def _slope(sums: _Sums) -> Interval:
    values = sums.slope()
    return _percentiles(values) if np.isfinite(values[0]) else Interval(0.0, 0.0, 0.0)


def _percentiles(values: Floats) -> Interval:
    resamples = values[1:][np.isfinite(values[1:])]
    if not len(resamples):
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    low, high = np.percentile(resamples, _LEVEL)
    return Interval(float(values[0]), float(low), float(high))


def _chunks(count: int, numbers: int) -> Iterator[slice]:
    size = max(1, _NUMBERS_AT_ONCE // max(1, numbers))
    for at in range(0, count, size):
        yield slice(at, at + size)
