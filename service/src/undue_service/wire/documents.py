"""Result files that are documents: values of the domain as JSON, one a line, written by a runner and read in blocks.

group_influences: `GroupFinding`s, row_comparisons: `CompareFinding`s, each in the order that its type says.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from .codec import Codec

T = TypeVar("T")

BLOCK_BYTES = 1 << 18
"""Of lines in one block, about: they may be many, or one may be long."""


def write_lines(path: Path, codec: Codec[T], values: Iterable[T]) -> None:
    """Write values.

    Raises:
        ValueError: one holds NaN or infinity.
        OSError: the disk is full, or another failure of the file system.
    """
    with path.open("wb") as file:
        for value in values:
            file.write(codec.dump(value) + b"\n")


def read_lines(path: Path, codec: Codec[T]) -> Iterator[tuple[T, ...]]:
    """Yield the values of a file, some at a time.

    Raises:
        ValueError: a line is not of this type.
    """
    with path.open("rb") as file:
        while lines := file.readlines(BLOCK_BYTES):
            yield tuple(codec.load(line) for line in lines)
