"""How often screening finds what a dense scan would."""

import torch
from torch import Tensor

from undue_service.engine.gradients import training_batches
from undue_service.engine.objective import Objective

from .fitted import FittedIndex
from .search import Searcher

LISTED = 10
"""Rows a side that recall is about."""
TIE = 1e-6
"""Relative difference of scores that count as equal."""


def measured_recall(
    searcher: Searcher, fitted: FittedIndex, objective: Objective, numbers: Tensor, reference: Tensor
) -> float:
    """Return the share of the first 10 rows a side that the search finds, over rows that the index was built with.

    A row that is asked about is no candidate itself: it would be found too easily.

    Args:
        searcher: of the whole index.
        fitted: names the rows that are asked about, R of them.
        objective: in the precision of the index's method.
        numbers: of the rows that were encoded, (n,).
        reference: their scores, (n, R).
    """
    hits = places = 0
    asked = fitted.recalled.tolist()
    for batch in training_batches(objective, searcher.rows, 16, asked):
        found = searcher.explain(batch, top_k=LISTED + 1)
        for at, row in enumerate(batch.index.tolist()):
            scores = reference[:, asked.index(row)].double().masked_fill(numbers == row, 0)
            for sign, rows in ((1, found.helpful_rows[at]), (-1, found.harmful_rows[at])):
                ranked = (sign * scores).sort(descending=True).values[:LISTED]
                ranked = ranked[ranked > 0]
                if not len(ranked):
                    continue
                listed = [one for one in rows.tolist() if one >= 0 and one != row][:LISTED]
                of_listed = sign * scores[torch.isin(numbers, torch.tensor(listed, dtype=torch.int64))]
                hits += int((of_listed >= ranked[-1] * (1 - TIE)).sum().clamp(max=len(ranked)))
                places += len(ranked)
    return hits / places if places else 1.0
