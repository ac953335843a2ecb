"""What a linear head sees of a data set. What lies below the head runs once, as far as memory allows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, training_batches
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class HeadBlock:
    """Some rows: f = x̃ Θ + offset for coefficients Θ (d, C)."""

    features: Tensor
    """x̃, (B, d)."""
    offsets: Tensor
    """What the outputs hold beside x̃ Θ: (B, C)."""
    targets: Tensor | None
    """(B,) or (B, C); None for a regression that is explained by its output."""
    weights: Tensor | None
    """w_i, (B,); None stands for ones."""
    index: Tensor
    """Row numbers, (B,)."""

    def project(self, coefficients: Tensor) -> Tensor:
        """Return x̃ Θ_k of K heads (d, K, C): (B, K, C)."""
        d, K, C = coefficients.shape
        return (self.features @ coefficients.reshape(d, K * C)).view(-1, K, C)

    def outputs(self, coefficients: Tensor) -> Tensor:
        """Return f of K heads (d, K, C): (B, K, C)."""
        return self.project(coefficients) + self.offsets[:, None, :]

    def parts(self, size: int) -> Iterator["HeadBlock"]:
        """Yield the rows, at most `size` at a time."""
        for start in range(0, len(self.index), size):
            at = slice(start, start + size)
            yield HeadBlock(
                self.features[at],
                self.offsets[at],
                None if self.targets is None else self.targets[at],
                None if self.weights is None else self.weights[at],
                self.index[at],
            )

    def at(self, places: Tensor) -> "HeadBlock":
        """Return some of the rows, by their places (B',) int64 in the block."""
        there = places.to(self.features.device)
        return HeadBlock(
            self.features[there],
            self.offsets[there],
            None if self.targets is None else self.targets[there],
            None if self.weights is None else self.weights[there],
            self.index[places],
        )

    def gather(self, values: Tensor) -> Tensor:
        """Return Σ_i x̃_i ⊗ v_i of (B, K, C): (d, K, C)."""
        _, K, C = values.shape
        return (self.features.T @ values.reshape(-1, K * C)).view(-1, K, C)


class HeadRows:
    """Rows as a head sees them; kept in memory where they fit, else made again for every pass."""

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
        """Bind rows to the head of an objective.

        Args:
            objective: has a linear head.
            rows: the data set.
            select: row numbers; None means all.
            explained: whether they are test rows, whose targets are those that `Objective.explained` gives them; else
                they are training rows, which need their own.
            memory_bytes: budget of what is kept.
            progress: told after each block while the rows are read for the first time.
        """
        self._objective = objective
        self._rows = rows
        self._select = select
        self._explained = explained
        self._size = block_rows(objective, memory_bytes)
        self._progress = progress
        self._coefficients = objective.head.from_theta(objective.theta).T[:, None]
        width = objective.head.features + objective.head.outputs + 2
        self._keeps = len(self) * width * self._coefficients.element_size() <= memory_bytes
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
        made = []
        done = 0
        for batch in self._batches():
            features, f = self._objective.head.evaluate(batch.inputs)
            known = (features @ self._coefficients[:, 0]).detach()
            block = HeadBlock(features.detach(), f.detach() - known, batch.targets, batch.weights, batch.index)
            if self._keeps:
                made.append(block)
            yield block
            done += len(batch.index)
            self._progress("features", done, len(self))
        if self._keeps:
            self._kept = made

    def take(self, rows: Tensor) -> HeadBlock:
        """Return some rows of the data set in the order of their numbers (B,) int64, of which none is twice.

        Of rows that were selected when this was made, none can be taken.
        """
        if self._kept is None:
            some = HeadRows(self._objective, self._rows, rows.tolist(), explained=self._explained)
            return joined(list(some.blocks()), rows)
        size = len(self._kept[0].index)
        order = torch.argsort(rows)
        parts = []
        for place, own in enumerate(_split(rows[order], size)):
            if len(own):
                parts.append(self._kept[place].at(own - place * size))
        return joined(parts, rows[order]).at(torch.argsort(order))

    def _batches(self) -> Iterator[Batch]:
        if not self._explained:
            yield from training_batches(self._objective, self._rows, self._size, self._select)
            return
        for raw in self._rows.batches(self._size, self._select):
            yield self._objective.explained(self._objective.place(raw))

    @property
    def largest_block(self) -> int:
        """Return the most rows of a block."""
        return min(self._size, len(self))


def joined(blocks: Sequence[HeadBlock], index: Tensor) -> HeadBlock:
    """Return blocks, at least one, as one whose rows have the numbers `index`."""
    targets = [block.targets for block in blocks if block.targets is not None]
    weights = [block.weights for block in blocks if block.weights is not None]
    return HeadBlock(
        torch.cat([block.features for block in blocks]),
        torch.cat([block.offsets for block in blocks]),
        torch.cat(targets) if targets else None,
        torch.cat(weights) if weights else None,
        index,
    )


def registered(objective: Objective) -> Tensor:
    """Return the coefficients of the registered weights, (d, C)."""
    return objective.head.from_theta(objective.theta).T.contiguous()


def l2_of(objective: Objective) -> Tensor:
    """Return l2 · mask for each coefficient, (d, C)."""
    return objective.head.from_theta(objective.l2).T.contiguous()


def _split(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the ordered rows of each block of `size`."""
    blocks = int(rows[-1]) // size + 1 if len(rows) else 0
    bounds = torch.searchsorted(rows, torch.arange(blocks + 1) * size).tolist()
    for first, last in pairwise(bounds):
        yield rows[first:last]


def repeated(targets: Tensor, K: int) -> Tensor:
    """Return the targets of K heads' outputs laid flat, (B · K,) or (B · K, C)."""
    return torch.repeat_interleave(targets, K, dim=0)
