"""How far two rankings agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERSISTENCE = 0.9
"""p of the rank-biased overlap: the first ten ranks have 86 % of the weight."""
_CONSTANT = 1e-12


def jaccard(a: Sequence[int], b: Sequence[int]) -> float:
    """Return |A ∩ B| / |A ∪ B|; 1 for two empty lists."""
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else 1.0


def rank_biased_overlap(a: Sequence[int], b: Sequence[int], p: float = PERSISTENCE) -> float:
    """Return the extrapolated rank-biased overlap of two lists (Webber, Moffat & Zobel 2010, equation 32).

    RBO_ext = (1−p)/p [Σ_{d=1}^{l} X_d/d · p^d + Σ_{d=s+1}^{l} X_s (d−s)/(s d) p^d] + [(X_l − X_s)/l + X_s/s] p^l,
    X_d the overlap of the first d of both, s the shorter and l the longer length: both go on as they agree so far.
    1 for two empty lists, 0 where one of them is empty.

    Args:
        a: best first, each once.
        b: best first, each once.
        p: how much each further rank counts, 0 < p < 1.
    """
    shorter, longer = sorted((list(a), list(b)), key=len)
    s, l = len(shorter), len(longer)  # noqa: E741  the paper's
    if s == 0:
        return 1.0 if l == 0 else 0.0
    X, seen_a, seen_b = np.zeros(l + 1), set[int](), set[int]()
    for d in range(1, l + 1):
        seen_b.add(longer[d - 1])
        if d <= s:
            seen_a.add(shorter[d - 1])
        X[d] = len(seen_a & seen_b)
    d = np.arange(1, l + 1)
    total = float((X[1:] / d * p**d).sum())
    beyond = d[s:]
    total += float((X[s] * (beyond - s) / (s * beyond) * p**beyond).sum())
    return (1 - p) / p * total + float((X[l] - X[s]) / l + X[s] / s) * p**l


def pearson(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Return Pearson's correlation; None where one of the two does not vary."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if any(np.ptp(one) <= _CONSTANT * np.abs(one).max() for one in (a, b)):
        return None
    # Scaled first: squares of small scores underflow.
    a, b = ((one - one.mean()) / np.ptp(one) for one in (a, b))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Return Spearman's correlation, Pearson's of mid-ranks; None where one of the two does not vary."""
    if any(np.ptp(one) <= _CONSTANT * np.abs(one).max() for one in (a, b)):
        return None
    return pearson(ranks(a), ranks(b))


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return mid-ranks from 1 on, (n,)."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: NDArray[np.float64] = (ends - (counts - 1) / 2)[group]
    return middle


def leading(scores: NDArray[Any], k: int, sign: int) -> list[int]:
    """Return the rows of the k largest scores of a sign (1 or −1), largest first, ties by the smaller row."""
    signed = sign * scores
    there = np.flatnonzero(signed > 0)
    if len(there) > k:
        edge = np.partition(signed[there], len(there) - k)[len(there) - k]
        there = there[signed[there] >= edge]
    order = there[np.lexsort((there, -signed[there]))][:k]
    found: list[int] = order.tolist()
    return found
