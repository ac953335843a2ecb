"""Training rows by their numbers, in any order, as training takes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, training_batches
from undue_service.engine.objective import Objective


class HeldRows:
    """Placed training rows; kept in memory where they fit, else read for every batch."""

    def __init__(self, objective: Objective, train: Rows, *, memory_bytes: int) -> None:
        """Bind rows to an objective; `memory_bytes` is the budget of what is kept.

        Raises:
            InvalidArgument: INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING.
        """
        self._objective = objective
        self._train = train
        self._size = block_rows(objective, memory_bytes)
        first = next(training_batches(objective, train, 1))
        self._kept: Batch | None = None
        if len(train) * _bytes(first) <= memory_bytes:
            self._kept = _joined(list(training_batches(objective, train, self._size)))

    def __len__(self) -> int:
        return len(self._train)

    def take(self, index: Tensor) -> Batch:
        """Return the rows of an index (…,) int64; each tensor's first axes are those of the index."""
        if self._kept is not None:
            return _at(self._kept, index, index)
        # Copies that train on subsets ask for the same row several times; it is read once.
        rows, places = torch.unique(index, return_inverse=True)
        read = _joined(list(training_batches(self._objective, self._train, self._size, rows.tolist())))
        return _at(read, places, index)


def row_blocks(held: HeldRows, size: int) -> Sequence[Tensor]:
    """Return the row numbers of all rows in order, at most `size` at a time."""
    return torch.arange(len(held)).split(size)


def _bytes(batch: Batch) -> int:
    tensors = [*batch.inputs.values(), *(one for one in (batch.targets, batch.weights) if one is not None)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _joined(batches: Sequence[Batch]) -> Batch:
    def along(parts: list[Tensor | None]) -> Tensor | None:
        return None if parts[0] is None else torch.cat(parts)

    return Batch(
        inputs={name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs},
        targets=along([batch.targets for batch in batches]),
        weights=along([batch.weights for batch in batches]),
        index=torch.cat([batch.index for batch in batches]),
    )


def _at(rows: Batch, places: Tensor, index: Tensor) -> Batch:
    def of(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[places.to(tensor.device)]

    return Batch({name: of(tensor) for name, tensor in rows.inputs.items()}, of(rows.targets), of(rows.weights), index)
