"""The test rows that are asked about: what the model makes of them, and the gradients of their costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason

from .data import Batch, Rows
from .gradients import block_rows, measurement_gradients
from .objective import Objective
from .progress import Progress

_MOST_AT_ONCE = 1024


@dataclass(frozen=True)
class RowFacts:
    """What the model makes of some rows."""

    rows: NDArray[np.int64]
    """(r,) row numbers."""
    predictions: NDArray[Any]
    """Class (r,) int64; or number (r,), or numbers (r, C), float64."""
    targets: NDArray[Any]
    """Likewise. Without targets it is what is explained: the predicted class, or the prediction."""
    losses: NDArray[np.float64]
    """(r,)."""

    @classmethod
    def joined(cls, parts: Sequence["RowFacts"]) -> "RowFacts":
        """Return the facts of one row after the other."""
        names = ("rows", "predictions", "targets", "losses")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def row_facts(objective: Objective, batch: Batch) -> RowFacts:
    """Return what the model makes of a placed batch."""
    f = objective.outputs(objective.theta, batch.inputs)
    predictions = objective.loss.predictions(f)
    targets = predictions if batch.targets is None else batch.targets
    losses = torch.zeros(len(f)) if batch.targets is None else objective.loss.losses(f, targets)
    return RowFacts(
        batch.index.numpy(), _values(predictions), _values(targets), losses.to("cpu", torch.float64).numpy()
    )


def asked_rows(rows: Sequence[int] | None, length: int) -> list[int]:
    """Return the numbers of the test rows that are asked about; None means all.

    Raises:
        InvalidArgument: INVALID_FIELD where there are none, ROW_OUT_OF_RANGE.
    """
    wanted = list(range(length)) if rows is None else [int(row) for row in rows]
    if not wanted:
        raise InvalidArgument.at("rows", "name at least one test row, or leave rows out for all")
    wrong = next((row for row in wanted if not 0 <= row < length), None)
    if wrong is not None:
        raise InvalidArgument.at(
            "rows", f"there is no test row {wrong}; there are rows 0…{length - 1}", Reason.ROW_OUT_OF_RANGE
        )
    return wanted


def each_query(
    objective: Objective, test: Rows, rows: Sequence[int], measurement: str, memory_bytes: int
) -> Iterator[tuple[Tensor, RowFacts]]:
    """Yield ∇m_t of test rows as columns (P, m'), with what the model makes of them, some rows at a time."""
    size = min(block_rows(objective, memory_bytes, objective.space.dim * 4), _MOST_AT_ONCE)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        found = [(gradients.dense(), facts) for gradients, facts in _blocks(objective, test, part, measurement, size)]
        yield torch.cat([gradients for gradients, _ in found]).T, RowFacts.joined([facts for _, facts in found])


def mean_query(
    objective: Objective, test: Rows, rows: Sequence[int], measurement: str, memory_bytes: int, progress: Progress
) -> tuple[Tensor, RowFacts]:
    """Return ∇((1/m) Σ_t m_t) as one column (P, 1), with what the model makes of each row; streamed."""
    total = torch.zeros_like(objective.theta)
    parts: list[RowFacts] = []
    done = 0
    for gradients, facts in _blocks(objective, test, rows, measurement, block_rows(objective, memory_bytes)):
        total += gradients.total(None)
        parts.append(facts)
        done += len(facts.rows)
        progress("test rows", done, len(rows))
    return (total / len(rows))[:, None], RowFacts.joined(parts)


def _blocks(
    objective: Objective, test: Rows, rows: Sequence[int], measurement: str, size: int
) -> Iterator[tuple[Any, RowFacts]]:
    for raw in test.batches(size, rows):
        placed = objective.place(raw)
        batch = objective.explained(placed)
        yield (
            measurement_gradients(objective, batch, measurement),
            row_facts(objective, replace(batch, index=placed.index)),
        )


def _values(values: Tensor) -> NDArray[Any]:
    flat = values[:, 0] if values.dim() == 2 and values.shape[1] == 1 else values
    return flat.to("cpu", torch.float64 if flat.is_floating_point() else torch.int64).numpy()
