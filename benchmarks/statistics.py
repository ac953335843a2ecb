"""What is said of scores: agreement, the linear datamodelling score, and how sure of it one can be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def ranks(values: Array) -> Array:
    """Return ranks along the last axis, from 0; ties share the mean of theirs."""
    order = np.argsort(values, axis=-1, kind="stable")
    found = np.empty(values.shape)
    for at in np.ndindex(values.shape[:-1]):
        ordered = values[at][order[at]]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        counts = np.diff(np.r_[starts, len(ordered)])
        found[at][order[at]] = np.repeat(starts + (counts - 1) / 2, counts)
    return found


def pearson(a: Array, b: Array) -> Array:
    """Return the correlation of each row of a with that of b, (m,) for (m, n); NaN where either is constant."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


def spearman(a: Array, b: Array) -> Array:
    """Return the rank correlation of each row of a with that of b, (m,) for (m, n)."""
    return pearson(ranks(np.asarray(a, dtype=np.float64)), ranks(np.asarray(b, dtype=np.float64)))


def relative_difference(a: Array, b: Array) -> float:
    """Return max|a − b| / max|b|."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def lds(scores: Array, subsets: NDArray[np.bool_], losses: Array) -> Array:
    """Return the linear datamodelling score of each test row (Park et al. 2023, definition 2.3).

    Args:
        scores: (m, n), positive where removing the training row raises the loss: a subset's loss is −Σ of its scores.
        subsets: (K, n).
        losses: (K, m), measured by training on each subset.

    Returns:
        (m,), Spearman's correlation over the K subsets of predicted and measured losses.
    """
    predicted = -(np.asarray(scores, dtype=np.float64) @ np.asarray(subsets, dtype=np.float64).T)
    return spearman(predicted, np.asarray(losses, dtype=np.float64).T)


def bootstrap(values: Array, draws: int = 2000, seed: int = 0) -> Interval:
    """Return the mean of (models, test rows), with its interval over draws of models and of test rows.

    For a paired comparison pass the differences of the two contenders on the same models and rows.
    """
    values = np.atleast_2d(values)
    generator = np.random.default_rng(seed)
    models, rows = values.shape
    means = np.empty(draws)
    for draw in range(draws):
        at = np.ix_(generator.integers(models, size=models), generator.integers(rows, size=rows))
        means[draw] = values[at].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
