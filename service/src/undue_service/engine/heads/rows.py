"""What linear heads see of a data set. What lies below them runs once, as far as memory allows."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, each_block
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .block import HeadBlock, joined


class HeadRows:
    """Rows as a head sees them, f = x̃ Θ + o; kept in memory where they fit, else made again for every pass."""

    def __init__(
        self,
        objective: Objective,
        rows: Rows,
        select: Sequence[int] | None = None,
        *,
        explained: bool = False,
        dtype: torch.dtype | None = None,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind rows to the head of an objective.

        Args:
            objective: has a linear head.
            rows: the data set.
            select: row numbers; None means all.
            explained: whether they are test rows, whose targets are those that `Objective.explained` gives them; else
                they are training rows, which need their own.
            dtype: of what the head sees, whatever the model below it computes in; None is that of θ.
            memory_bytes: budget of what is kept.
            progress: told after each block while the rows are read for the first time.
        """
        self._objective = objective
        self._rows = rows
        self._select = select
        self._explained = explained
        self._dtype = objective.theta.dtype if dtype is None else dtype
        self._size = block_rows(objective, memory_bytes)
        self._progress = progress
        width = objective.head.features + objective.head.outputs + 2
        self._keeps = len(self) * width * self._dtype.itemsize <= memory_bytes
        self._kept: list[HeadBlock] | None = None

    def __len__(self) -> int:
        return len(self._rows) if self._select is None else len(self._select)

    def blocks(self) -> Iterator[HeadBlock]:
        """Yield all rows in order.

        Raises:
            InvalidArgument: INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING.
        """
        if self._kept is not None:
            yield from self._kept
            return
        made, done = [], 0
        for batch, features, f in self._evaluated():
            block = self._block(batch, features, f)
            if self._keeps:
                made.append(block)
            yield block
            done += len(block.index)
            self._progress("features", done, len(self))
        if self._keeps:
            self._kept = made

    def take(self, rows: Tensor) -> HeadBlock:
        """Return some rows of the data set in the order of their numbers (B,) int64, of which none is twice.

        Of rows that were selected when this was made, none can be taken.
        """
        if self._kept is None:
            some = HeadRows(self._objective, self._rows, rows.tolist(), explained=self._explained, dtype=self._dtype)
            return joined(list(some.blocks()), rows)
        order = torch.argsort(rows)
        firsts = [0, *accumulate(len(block.index) for block in self._kept)]
        bounds = torch.searchsorted(rows[order], torch.tensor(firsts)).tolist()
        parts = [
            block.at(rows[order[first:last]] - start)
            for block, start, (first, last) in zip(self._kept, firsts, pairwise(bounds), strict=False)
            if last > first
        ]
        return joined(parts, rows[order]).at(torch.argsort(order))

    @property
    def largest_block(self) -> int:
        """Return the most rows of a block."""
        return min(self._size, len(self))

    def _evaluated(self) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Yield placed batches, their features x̃ and outputs f."""
        objective = self._objective
        if not self._explained:
            for batch, seen in each_block(objective, self._rows, self._size, self._seen, self._select):
                yield batch, *seen
            return
        for raw in self._rows.batches(self._size, self._select):
            placed = objective.place(raw)
            features, f = self._seen(placed)
            yield objective.explained(placed, f), features, f

    @torch.no_grad()
    def _seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._objective.head.evaluate({name: laid_out(x) for name, x in batch.inputs.items()})

    def _block(self, batch: Batch, features: Tensor, f: Tensor) -> HeadBlock:
        features, offsets = parted(self._objective, features, f, self._dtype)
        targets = batch.targets
        if targets is not None and targets.is_floating_point():
            targets = targets.to(self._dtype)
        weights = None if batch.weights is None else batch.weights.to(self._dtype)
        return HeadBlock(features, offsets, targets, weights, batch.index)


def laid_out(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the channels innermost, as convolutions on a CPU are twice as fast; else x."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def parted(objective: Objective, features: Tensor, f: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x̃ (B, d) and o = f − x̃ Θ̂ (B, C) in a dtype, of what `LinearHead.evaluate` returns."""
    registered = objective.head.from_theta(objective.theta).to(dtype)
    features = features.to(dtype)
    return features, f.to(dtype) - features @ registered.T
