"""The mean of a few repetitions with Student's interval of 95 %."""

import math
from collections.abc import Sequence

from undue_service.domain.reports import Interval

_TAIL = 0.975


def mean_interval(values: Sequence[float]) -> Interval:
    """Return mean ± t s/√k of k values, t the 97.5 % quantile of Student's distribution with k − 1 degrees of freedom.

    One value alone says nothing of its spread: its interval is infinitely wide.
    """
    k = len(values)
    mean = math.fsum(values) / k
    if k == 1:
        return Interval(mean, -math.inf, math.inf)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (k - 1) / k)
    half = t_quantile(k - 1) * spread
    return Interval(mean, mean - half, mean + half)


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's distribution, by bisection of its distribution function."""
    low, high = 0.0, 16.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _distribution(middle, freedom) < _TAIL else (low, middle)
    return high


def _distribution(t: float, freedom: int) -> float:
    """Return P(T ≤ t), t ≥ 0 (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    sine, squared = math.sin(theta), math.cos(theta) ** 2
    odd = freedom % 2
    term, total = math.cos(theta) if odd else 1.0, 0.0
    for j in range(2 + odd, freedom + 1, 2):
        total += term
        term *= squared * (j - 1) / j
    area = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return (1 + area) / 2
