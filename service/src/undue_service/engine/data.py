"""Rows of a data set, as the engine reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows."""

    inputs: Mapping[str, Tensor]
    """By name, (B, …) each."""
    targets: Tensor | None
    """(B,) or (B, C); None where the data set has none."""
    weights: Tensor | None
    """w_i, (B,); None stands for ones."""
    index: Tensor
    """Row numbers in the data set, (B,) int64."""

    def __getitem__(self, rows: slice) -> "Batch":
        """Return some of the rows."""
        return Batch(
            {name: tensor[rows] for name, tensor in self.inputs.items()},
            None if self.targets is None else self.targets[rows],
            None if self.weights is None else self.weights[rows],
            self.index[rows],
        )


class Rows(Protocol):
    """A data set that can be read in blocks, as often as needed and each time alike."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the rows in order, at most `size` at a time; only `rows`, in that order, if given."""


class TensorRows:
    """Rows that lie in memory."""

    def __init__(
        self, inputs: Mapping[str, Tensor], targets: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Hold tensors whose first axis is the row.

        Raises:
            InvalidArgument: ROWS_MISMATCH where their lengths differ, DATASET_EMPTY where there is no row.
        """
        named = {
            **inputs,
            **({} if targets is None else {"targets": targets}),
            **({} if weights is None else {"weights": weights}),
        }
        lengths = {name: len(tensor) for name, tensor in named.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidArgument(
                Reason.ROWS_MISMATCH, f"every array needs the same number of rows, but they have {lengths}"
            )
        if not lengths or 0 in lengths.values():
            raise InvalidArgument(Reason.DATASET_EMPTY, "the data set has no row")
        self._inputs = dict(inputs)
        self._targets = targets
        self._weights = weights
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the rows in order, at most `size` at a time; only `rows`, in that order, if given."""
        wanted = None if rows is None else torch.as_tensor(rows, dtype=torch.int64)
        for start in range(0, self._length if wanted is None else len(wanted), size):
            stop = min(start + size, self._length)
            at = slice(start, stop) if wanted is None else wanted[start : start + size]
            yield Batch(
                inputs={name: tensor[at] for name, tensor in self._inputs.items()},
                targets=None if self._targets is None else self._targets[at],
                weights=None if self._weights is None else self._weights[at],
                index=torch.arange(start, stop) if wanted is None else wanted[start : start + size],
            )
