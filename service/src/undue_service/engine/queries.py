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
from .gradients import GradientBlock, block_rows, dense_gradients, measurement_gradients
from .objective import Objective
from .progress import Progress, silent

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

    def some(self, at: NDArray[np.int64]) -> "RowFacts":
        """Return the facts of some of the rows, by their places."""
        return RowFacts(self.rows[at], self.predictions[at], self.targets[at], self.losses[at])


def row_facts(objective: Objective, batch: Batch, f: Tensor | None = None) -> RowFacts:
    """Return what the model makes of a placed batch, whose outputs f (B, C) may be known already."""
    f = objective.outputs(objective.theta, batch.inputs) if f is None else f
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


@dataclass(frozen=True)
class Asked:
    """Test rows that are explained together: each by itself, or the mean of their costs as one explanation."""

    test: Rows
    rows: Sequence[int]
    measurement: str
    mean: bool = False
    memory_bytes: int = 2**30
    """Budget of the intermediate values of one block."""
    progress: Progress = silent
    explaining: Objective | None = None
    """Whose prediction a row without a target is explained by; None: that of whatever takes the gradients."""

    def __len__(self) -> int:
        """Return m, the number of explanations."""
        return 1 if self.mean else len(self.rows)

    def facts(self, objective: Objective) -> RowFacts:
        """Return what the model makes of each row."""
        parts = []
        for placed, batch in self.batches(objective):
            parts.append(row_facts(objective, replace(batch, index=placed.index)))
        return RowFacts.joined(parts)

    def gradients(self, objective: Objective) -> GradientBlock:
        """Return ∇m_t of each explanation at an objective; those of the mean are made dense, (1, P)."""
        if self.mean:
            total = torch.zeros_like(objective.theta)
            done = 0
            for _, batch in self.batches(objective):
                total += measurement_gradients(objective, batch, self.measurement).total(None)
                done += len(batch.index)
                self.progress("test rows", done, len(self.rows))
            return dense_gradients(objective, (total / len(self.rows))[None])
        (batch,) = (batch for _, batch in self.batches(objective))
        return measurement_gradients(objective, batch, self.measurement)

    def columns(self, objective: Objective) -> Tensor:
        """Return ∇m_t of each explanation as columns, (P, m)."""
        return self.gradients(objective).dense().T

    def batches(self, objective: Objective) -> Iterator[tuple[Batch, Batch]]:
        """Yield the rows as placed batches, as they are and with the targets that their explanation is about.

        They are one batch unless they are explained by their mean.
        """
        size = block_rows(objective, self.memory_bytes) if self.mean else len(self.rows)
        for raw in self.test.batches(size, self.rows):
            placed = objective.place(raw)
            yield placed, self._explained(objective, raw, placed)

    def _explained(self, objective: Objective, raw: Batch, placed: Batch) -> Batch:
        if placed.targets is not None or self.explaining is None:
            return objective.explained(placed)
        return replace(placed, targets=self.explaining.explained(self.explaining.place(raw)).targets)


def each_asked(
    objective: Objective,
    test: Rows,
    rows: Sequence[int],
    measurement: str,
    *,
    mean: bool,
    row_numel: int,
    memory_bytes: int,
    progress: Progress,
) -> Iterator[Asked]:
    """Yield the test rows in parts that fit into memory; those of a mean are one part.

    Args:
        objective: says what a row takes, and by which label one without a target is explained.
        test: where the rows are.
        rows: their numbers.
        measurement: the cost.
        mean: whether the mean of their costs is explained.
        row_numel: numbers that the caller needs for each explanation.
        memory_bytes: budget of a part.
        progress: told of the rows that were read, where there are many.
    """
    size = len(rows) if mean else min(block_rows(objective, memory_bytes, row_numel), _MOST_AT_ONCE)
    for start in range(0, len(rows), size):
        yield Asked(test, rows[start : start + size], measurement, mean, memory_bytes, progress, objective)


def _values(values: Tensor) -> NDArray[Any]:
    flat = values[:, 0] if values.dim() == 2 and values.shape[1] == 1 else values
    return flat.to("cpu", torch.float64 if flat.is_floating_point() else torch.int64).numpy()
