"""Result files of mislabels jobs.

mislabels: of R rankings, S repetitions and B budgets `rankings`, strings, `budgets`, `checked` (B,), `found` and
`accuracy` (R, S, B), `found_interval` and `accuracy_interval` (R, B, 2), `accuracy_wrong` (S,), `accuracy_right` and
`wrong` (1,).
suspects: as `self_influences` in `results`, k rows for each ranking, one ranking after the other, and `rankings`.
"""

from typing import Any, cast

import numpy as np

from undue_service.domain.mislabels import MislabelCurve, MislabelPoint, RankingName, SeedMean
from undue_service.domain.results import ScoredExample

from .examples import Page, decode_texts, self_influences


def curves(file: Any) -> tuple[MislabelCurve, ...]:
    """Return what each ranking found."""
    names = ("budgets", "checked", "found", "accuracy", "found_interval", "accuracy_interval")
    budgets, checked, found, accuracy, found_in, accuracy_in = (file.get_tensor(name) for name in names)

    def mean(values: Any, bounds: Any) -> SeedMean:
        low, high = bounds.tolist()
        return SeedMean(float(np.mean(values)), low, high, tuple(values.tolist()))

    return tuple(
        MislabelCurve(
            ranking=ranking,
            points=tuple(
                MislabelPoint(
                    budget=float(budgets[b]),
                    checked=int(checked[b]),
                    found=mean(found[r, :, b], found_in[r, b]),
                    accuracy=mean(accuracy[r, :, b], accuracy_in[r, b]),
                )
                for b in range(len(budgets))
            ),
            wrong=int(file.get_tensor("wrong").item()),
            accuracy_right=float(file.get_tensor("accuracy_right").item()),
            accuracy_wrong=tuple(file.get_tensor("accuracy_wrong").tolist()),
        )
        for r, ranking in enumerate(_rankings(file))
    )


def suspects(file: Any, start: int, count: int) -> Page[tuple[RankingName, ScoredExample]]:
    """Return at most `count` listed rows, and at most about a page of them."""
    found, more = self_influences(file, start, count)
    rankings = _rankings(file)
    each = file.get_slice("row").get_shape()[0] // len(rankings)
    return tuple((rankings[(start + place) // each], one) for place, one in enumerate(found)), more


def _rankings(file: Any) -> tuple[RankingName, ...]:
    return cast(tuple[RankingName, ...], decode_texts(file.get_tensor("rankings")))
