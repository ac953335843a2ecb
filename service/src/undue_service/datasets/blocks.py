"""Blocks of columns: cut, joined, and kept."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator

import numpy as np
import numpy.typing as npt

from .source import Array

Block = dict[str, Array]
"""Column name to its values for some rows, (B, …) each."""
Piece = tuple[npt.NDArray[np.int64], Block]
"""A block with the numbers of its rows, (B,)."""
Placed = tuple[int, Block]
"""A block of consecutive rows with the number of the first."""

_TEXT_OVERHEAD_BYTES = 64


def length(block: Block) -> int:
    """Return the number of rows."""
    return len(next(iter(block.values())))


def taken(block: Block, at: npt.NDArray[np.int64]) -> Block:
    """Return rows of a block by their place in it."""
    return {name: values[at] for name, values in block.items()}


def regrouped(pieces: Iterator[Piece], size: int) -> Iterator[Piece]:
    """Cut and join pieces into blocks of `size` rows, the last block the rest."""
    held: list[Piece] = []
    count = 0
    for index, block in pieces:
        at = 0
        while at < len(index):
            stop = min(len(index), at + size - count)
            held.append((index[at:stop], {name: values[at:stop] for name, values in block.items()}))
            count, at = count + stop - at, stop
            if count == size:
                yield _joined(held)
                held, count = [], 0
    if held:
        yield _joined(held)


class BlockCache:
    """Sequences of blocks within a budget of bytes; the least recently used is dropped first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[Hashable, tuple[list[Placed], int]] = OrderedDict()
        self._size = 0

    def through(self, key: Hashable, fresh: Iterator[Placed]) -> Iterator[Placed]:
        """Yield what is kept under a key; else `fresh`, which is kept if it is read to its end and fits."""
        if key in self._kept:
            self._kept.move_to_end(key)
            yield from self._kept[key][0]
            return
        blocks: list[Placed] = []
        size = 0
        for start, block in fresh:
            size += sum(map(_bytes, block.values()))
            if size <= self._budget:
                blocks.append((start, block))
            else:
                blocks.clear()
            yield start, block
        if size <= self._budget and key not in self._kept:
            self._keep(key, blocks, size)

    def _keep(self, key: Hashable, blocks: list[Placed], size: int) -> None:
        self._kept[key] = (blocks, size)
        self._size += size
        while self._size > self._budget:
            _, (_, freed) = self._kept.popitem(last=False)
            self._size -= freed


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    index = np.concatenate([index for index, _ in pieces])
    return index, {name: np.concatenate([block[name] for _, block in pieces]) for name in pieces[0][1]}


def _bytes(values: Array) -> int:
    if values.dtype != np.object_:
        return values.nbytes
    distinct = {id(text): len(text) for text in values}  # equal texts of a block are one object
    return values.nbytes + sum(distinct.values()) + _TEXT_OVERHEAD_BYTES * len(distinct)
