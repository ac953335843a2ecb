"""Products that are sums over blocks of rows: how many rows and columns go into one, and who is told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, each_block
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """Training rows, or some of them, in blocks that fit into memory."""

    objective: Objective
    train: Rows
    memory_bytes: int = 2**30
    """Budget of the intermediate values of one block."""
    progress: Progress = silent
    """Told after each block."""
    select: Sequence[int] | None = None
    """Row numbers; None means all."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.train) if self.select is None else len(self.select)

    def made(self, work: Callable[[Batch], T], row_numel: int = 0) -> Iterator[T]:
        """Yield what `work` makes of each block, with room for `row_numel` numbers of its own for each row.

        Where memory runs out, the blocks halve: `work` may be called again for rows that did not fit.
        """
        done = 0
        size = block_rows(self.objective, self.memory_bytes // 2, row_numel)
        for batch, found in each_block(self.objective, self.train, size, work, self.select):
            yield found
            done += len(batch.index)
            self.progress("curvature", done, len(self))

    def mean_product(self, V: Tensor, product: Callable[..., Tensor]) -> Tensor:
        """Return (1/n) Σ_blocks product(block, V) + l2 ∘ V, (P, K), reading the rows once for as many columns as fit.

        Args:
            V: columns, (P, K).
            product: a block and V=, some of the columns (P, k) → the sum over its rows, (P, k).
        """
        columns = V.shape[1]
        rows, chunk = self._chunks(columns)
        parts = []
        for start in range(0, columns, chunk):
            part = V[:, start : start + chunk]
            total = self.objective.l2[:, None] * part
            done = 0
            work = partial(product, V=part)
            for batch, found in each_block(self.objective, self.train, rows, work, self.select):
                total = total + found / len(self)
                done += len(batch.index)
                covered = start * len(self) + done * part.shape[1]
                self.progress("curvature", covered // columns, len(self))
            parts.append(total)
        return torch.cat(parts, dim=1)

    def _chunks(self, columns: int) -> tuple[int, int]:
        """Return how many rows and how many columns a block has."""
        rows = min(block_rows(self.objective, self.memory_bytes // 8), len(self))
        numel = 8 * rows * self.objective.row_numel + 4 * self.objective.space.dim
        return rows, max(1, min(columns, self.memory_bytes // (8 * numel)))
