"""How the influence on some predictions is shared among groups of training rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undue_service.domain.reports import Interval

from .progress import Progress, silent

Floats = NDArray[np.float64]

PARTS = 10_000
"""A group of more rows is resampled in so many parts, drawn at random: their sum varies as that of the rows does."""
_LEVEL = (2.5, 97.5)
_NUMBERS_AT_ONCE = 2**22
_CANCELS = 1e-12
"""Of Σ |score|: a total below it is rounding."""


@dataclass(frozen=True)
class Share:
    """One group's part in Σ score_i and Σ |score_i|."""

    group: str
    rows: NDArray[np.int64]
    """Numbers of its rows, those of the largest |score| first; ties by the smaller number."""
    row_share: float
    score: Interval
    share: float
    signed_share: float | None
    excess: Interval
    mean_size: float


def group_shares(
    scores: Floats,
    values: Sequence[str],
    weights: Floats | None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Share]:
    """Return the share of each group, most excess first.

    excess_g = (Σ_{i ∈ g} |s_i| / Σ_i |s_i|) / (Σ_{i ∈ g} w_i / Σ_i w_i): 1 where a group counts as much as it is large.
    Intervals of 95 % are percentiles over resamples of the group's own rows (Efron & Tibshirani 1993, chapter 13), the
    rows of the other groups kept; a group of one row has none to speak of.

    Args:
        scores: (n,) of the training rows.
        values: n values of the column.
        weights: (n,); None stands for ones.
        bootstrap: resamples of each group.
        seed: of the resamples.
        progress: told after each group.
    """
    groups, of = np.unique(np.asarray(values, dtype=np.str_), return_inverse=True)
    sizes, total, signed = np.abs(scores), float(np.abs(scores).sum()), float(scores.sum())
    weight = np.ones_like(scores) if weights is None else weights
    order = np.argsort(of, kind="stable")
    bounds = np.searchsorted(of[order], np.arange(len(groups) + 1))
    found = []
    for g, name in enumerate(groups.tolist()):
        rows = order[bounds[g] : bounds[g + 1]]
        row_share = _ratio(float(weight[rows].sum()), float(weight.sum()))
        own, size = float(scores[rows].sum()), float(sizes[rows].sum())
        resampled = _resampled(scores[rows], bootstrap, np.random.default_rng([seed, g]))
        sums, weighed = resampled[:, 0], resampled[:, 1]
        rest = total - size
        found.append(
            Share(
                group=name,
                rows=rows[np.lexsort((rows, -sizes[rows]))],
                row_share=row_share,
                score=_interval(own, sums),
                share=_ratio(size, total),
                signed_share=own / signed if abs(signed) > _CANCELS * total else None,
                excess=_interval(
                    _ratio(_ratio(size, total), row_share),
                    _ratios(_ratios(weighed, weighed + rest), np.full(len(weighed), row_share)),
                ),
                mean_size=size / len(rows),
            )
        )
        progress("groups", g + 1, len(groups))
    return sorted(found, key=lambda one: (-one.excess.value, one.group))


def _resampled(scores: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Return Σ s and Σ |s| of each resample, (B, 2)."""
    pair = np.stack([scores, np.abs(scores)], axis=1)
    if len(pair) > PARTS:
        part = np.arange(len(pair)) % PARTS
        rng.shuffle(part)
        pair = np.stack([np.bincount(part, weights=column, minlength=PARTS) for column in pair.T], axis=1)
    if len(pair) == 1:
        return np.repeat(pair, resamples, axis=0)
    found = np.empty((resamples, 2))
    size = max(1, _NUMBERS_AT_ONCE // len(pair))
    for start in range(0, resamples, size):
        stop = min(start + size, resamples)
        drawn = rng.integers(len(pair), size=(stop - start, len(pair)))
        found[start:stop] = pair[drawn].sum(axis=1)
    return found


def _interval(value: float, resamples: Floats) -> Interval:
    low, high = np.percentile(resamples, _LEVEL)
    return Interval(value, float(low), float(high))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _ratios(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)
