"""A data set with other inputs in some rows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows


class ReplacedRows:
    """Rows of which some hold other values of one input."""

    def __init__(self, rows: Rows, name: str | None, at: Tensor, values: Tensor) -> None:
        """Bind rows to what replaces some.

        Args:
            rows: the data set.
            name: of the input; None where there is one only.
            at: row numbers, (M,), none twice.
            values: (M, …).
        """
        self._rows = rows
        self._name = name
        self._order = torch.argsort(at)
        self._at = at[self._order].cpu()
        self._values = values[self._order].cpu()

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """See Rows."""
        for batch in self._rows.batches(size, rows):
            places = torch.searchsorted(self._at, batch.index).clamp(max=len(self._at) - 1)
            hit = self._at[places] == batch.index
            if not bool(hit.any()):
                yield batch
                continue
            name = self._name if self._name in batch.inputs else next(iter(batch.inputs))
            moved = batch.inputs[name].to(self._values.dtype).clone()
            moved[hit] = self._values[places[hit]]
            yield replace(batch, inputs={**batch.inputs, name: moved})
