"""What an index answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.engine.data import Batch
from undue_service.engine.queries import RowFacts


@dataclass(frozen=True)
class Found:
    """What an index answers for m rows."""

    test: RowFacts
    """Of the rows that were asked about."""
    helpful_rows: NDArray[np.int64]
    """(m, k) as in Attribution; k = top_k, whatever the index holds."""
    helpful_scores: NDArray[np.float64]
    harmful_rows: NDArray[np.int64]
    harmful_scores: NDArray[np.float64]
    train: RowFacts
    """The training rows that are listed, in ascending order."""
    instances: Batch
    """The same rows as the data set holds them."""
    scanned: int
    """Rows that were looked at: screened or, where the lists are guaranteed, scored."""
    seconds: dict[str, float]
    """Of each stage: gradient, screen, rescore."""


def joined(parts: Sequence[Found]) -> Found:
    """Return what was found for some rows and for more of them as one; a training row is there once."""
    if len(parts) == 1:
        return parts[0]
    train = RowFacts.joined([part.train for part in parts])
    _, first = np.unique(train.rows, return_index=True)
    instances = [part.instances for part in parts]
    together = Batch(
        {name: torch.cat([one.inputs[name] for one in instances]) for name in instances[0].inputs},
        _joined([one.targets for one in instances]),
        _joined([one.weights for one in instances]),
        torch.cat([one.index for one in instances]),
    )
    lists = ("helpful_rows", "helpful_scores", "harmful_rows", "harmful_scores")
    return Found(
        RowFacts.joined([part.test for part in parts]),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in lists),
        train=train.some(first),
        instances=some_rows(together, torch.as_tensor(first)),
        scanned=max(part.scanned for part in parts),
        seconds={stage: sum(part.seconds[stage] for part in parts) for stage in parts[0].seconds},
    )


def some_rows(batch: Batch, at: Tensor) -> Batch:
    """Return some rows of a batch, by their places."""
    return Batch(
        {name: tensor[at] for name, tensor in batch.inputs.items()},
        None if batch.targets is None else batch.targets[at],
        None if batch.weights is None else batch.weights[at],
        batch.index[at],
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
