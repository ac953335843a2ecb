"""What a linear head sees of a data set, in float64 whatever the model below it computes in."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, each_block
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.retraining.head_rows import HeadBlock

DOUBLE = torch.float64


class DoubleRows:
    """Rows as a head sees them, f = x̃ Θ + o; kept where they fit, else made again for every pass."""

    def __init__(
        self,
        objective: Objective,
        rows: Rows,
        select: Sequence[int] | None = None,
        *,
        explained: bool = False,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind rows to the head of an objective; arguments as of `HeadRows`."""
        self._objective = objective
        self._rows = rows
        self._select = select
        self._explained = explained
        self._size = block_rows(objective, memory_bytes // 2)
        self._progress = progress
        width = objective.head.features + objective.head.outputs + 2
        self._keeps = len(self) * width * DOUBLE.itemsize <= memory_bytes // 2
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
        for block in self._made():
            if self._keeps:
                made.append(block)
            yield block
            done += len(block.index)
            self._progress("features", done, len(self))
        if self._keeps:
            self._kept = made

    def _made(self) -> Iterator[HeadBlock]:
        objective = self._objective
        if not self._explained:
            for batch, seen in each_block(objective, self._rows, self._size, self._seen, self._select):
                yield _block(objective, batch, *seen)
            return
        for raw in self._rows.batches(self._size, self._select):
            placed = objective.place(raw)
            features, f = self._seen(placed)
            yield _block(objective, objective.explained(placed, f), features, f)

    @torch.no_grad()
    def _seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._objective.head.evaluate({name: laid_out(x) for name, x in batch.inputs.items()})


def laid_out(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the channels innermost, as convolutions on a CPU are twice as fast; else x."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def in_double(objective: Objective, features: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Return x̃ (B, d) and o = f − x̃ Θ̂ (B, C) in float64, of what `LinearHead.evaluate` returns."""
    registered = objective.head.from_theta(objective.theta).to(DOUBLE)
    features = features.to(DOUBLE)
    return features, f.to(DOUBLE) - features @ registered.T


def _block(objective: Objective, batch: Batch, features: Tensor, f: Tensor) -> HeadBlock:
    features, offsets = in_double(objective, features, f)
    targets = batch.targets
    if targets is not None and targets.is_floating_point():
        targets = targets.to(DOUBLE)
    weights = None if batch.weights is None else batch.weights.to(DOUBLE)
    return HeadBlock(features, offsets, targets, weights, batch.index)
