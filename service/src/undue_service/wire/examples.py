"""Pages of explained and of scored rows, of which no more is read than the page shows. See `results` for the files."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from undue_service.domain.results import Explanation, ScoredExample, Value

Array = npt.NDArray[Any]
Item = TypeVar("Item")
Page = tuple[tuple[Item, ...], int | None]
"""Some items, and where the next ones start."""

PAGE_BYTES = 1 << 20
"""Most bytes of messages in a page that has more than one."""
EXAMPLE_BYTES = 80
"""Most bytes of a row as a message, beside its id and those values that are several numbers."""


def encode_texts(texts: Sequence[str]) -> Array:
    """Return strings as bytes, each ended by a NUL byte."""
    return np.frombuffer("".join(f"{one}\0" for one in texts).encode(), dtype=np.uint8)


def encode_ids(ids: Sequence[str], prefix: str = "") -> dict[str, Array]:
    """Return ids as `encode_texts` does, with the offset of each and of their end, (n + 1,)."""
    offsets = np.cumsum([0, *(len(one.encode()) + 1 for one in ids)], dtype=np.int64)
    return {f"{prefix}ids": encode_texts(ids), f"{prefix}id_offsets": offsets}


def decode_texts(encoded: Array) -> tuple[str, ...]:
    """Return the strings that `encode_texts` made bytes of."""
    return tuple(encoded.tobytes().decode().split("\0")[:-1])


def fitting(sizes: Array) -> int:
    """Return how many of the next items, of these sizes in bytes, a page takes."""
    return max(1, int(np.searchsorted(np.cumsum(sizes), PAGE_BYTES, side="right")))


def blocks(page: Callable[[int, int], Page[Item]]) -> Iterator[tuple[Item, ...]]:
    """Yield everything that page(start, count) reads, a page at a time."""
    start: int | None = 0
    while start is not None:
        block, start = page(start, sys.maxsize)
        yield block


def explanations(file: Any, start: int, count: int) -> Page[Explanation]:
    """Return at most `count` explanations, and at most about PAGE_BYTES of them."""
    tests, train = _Examples(file, ""), _Examples(file, "train_")
    k = file.get_slice("helpful_rows").get_shape()[1]
    here = range(start, min(start + min(count, _most(2 * k)), tests.count))
    if not here:
        return (), None
    sides = {name: file.get_slice(name)[here.start : here.stop] for name in _SIDES}
    rows = np.concatenate([sides["helpful_rows"], sides["harmful_rows"]], axis=1)
    scores = np.concatenate([sides["helpful_scores"], sides["harmful_scores"]], axis=1)
    used = rows >= 0
    places = np.searchsorted(file.get_tensor("train_row"), rows)  # of unused ones 0, and never looked at
    sizes = np.zeros(rows.shape, np.int64)
    sizes[used] = train.sizes(0, train.count)[places[used]]
    here = here[: fitting(tests.sizes(here.start, here.stop) + sizes.sum(axis=1))]
    needed, columns = np.unique(places[: len(here)][used[: len(here)]]), {}
    if len(needed):
        columns = dict(zip(needed.tolist(), train.read(needed), strict=True))
    together = tuple(file.get_tensor("rows").tolist()) if "rows" in file.keys() else ()  # noqa: SIM118  no mapping

    def scored(at: int, side: slice) -> tuple[ScoredExample, ...]:
        found = zip(places[at, side].tolist(), scores[at, side].tolist(), used[at, side].tolist(), strict=True)
        return tuple(columns[place].scored(score) for place, score, is_used in found if is_used)

    found = tuple(
        Explanation(
            row=one.row,
            id=one.id,
            prediction=one.prediction,
            target=one.target,
            loss=one.loss,
            helpful=scored(at, slice(0, k)),
            harmful=scored(at, slice(k, 2 * k)),
            rows=together,
        )
        for at, one in enumerate(tests.read(np.asarray(here)))
    )
    return found, here.stop if here.stop < tests.count else None


def self_influences(file: Any, start: int, count: int) -> Page[ScoredExample]:
    """Return at most `count` ranked rows, and at most about PAGE_BYTES of them."""
    examples = _Examples(file, "")
    here = range(start, min(start + min(count, _most(1)), examples.count))
    if not here:
        return (), None
    here = here[: fitting(examples.sizes(here.start, here.stop))]
    scores = file.get_slice("score")[here.start : here.stop].tolist()
    ranked = zip(examples.read(np.asarray(here)), scores, strict=True)
    return tuple(one.scored(score) for one, score in ranked), here.stop if here.stop < examples.count else None


_SIDES = ("helpful_rows", "helpful_scores", "harmful_rows", "harmful_scores")


def _most(examples: int) -> int:
    """Return how many items of so many rows each to look at for one page: more never fit."""
    return max(1, PAGE_BYTES // (EXAMPLE_BYTES * max(1, examples)))


@dataclass(frozen=True, slots=True)
class _Example:
    """What is known of a row."""

    row: int
    id: str
    prediction: Value | None
    target: Value | None
    loss: float

    def scored(self, score: float) -> ScoredExample:
        assert self.target is not None  # noqa: S101  only rows that are explained together have none
        assert self.prediction is not None  # noqa: S101
        return ScoredExample(self.row, self.id, score, self.target, self.prediction, self.loss)


class _Examples:
    """The columns of a file that say what its rows are."""

    def __init__(self, file: Any, prefix: str) -> None:
        self._file = file
        self._prefix = prefix
        [self.count] = self._column("row").get_shape()
        known = f"{prefix}target" in file.keys()  # noqa: SIM118  no mapping
        self._values = {name: self._column(name) for name in ("prediction", "target")} if known else {}

    def sizes(self, start: int, stop: int) -> Array:
        """Return about how many bytes each of some rows has as a message, (stop − start,)."""
        if start == stop:
            return np.zeros(0, np.int64)
        shapes = [values.get_shape() for values in self._values.values()]
        numbers: int = sum(8 * shape[1] for shape in shapes if len(shape) > 1)
        offsets: Array = self._column("id_offsets")[start : stop + 1]
        return np.diff(offsets) + (EXAMPLE_BYTES + numbers)

    def read(self, places: Array) -> Iterator[_Example]:
        """Yield what is known of the rows at these places, ascending and at least one."""
        edges = np.flatnonzero(np.diff(places) != 1) + 1
        runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(places, edges)]
        ids, offsets = self._column("ids"), self._column("id_offsets")
        bounds = [(int(offsets[a : a + 1][0]), int(offsets[b : b + 1][0])) for a, b in runs]
        found: dict[str, Sequence[Value | None]]
        found = {name: values(_gathered(column, runs)) for name, column in self._values.items()}
        nothing: list[Value | None] = [None] * len(places)
        columns = zip(
            _gathered(self._column("row"), runs).tolist(),
            decode_texts(_gathered(ids, bounds)),
            found.get("prediction", nothing),
            found.get("target", nothing),
            _gathered(self._column("loss"), runs).tolist(),
            strict=True,
        )
        return (_Example(*column) for column in columns)

    def _column(self, name: str) -> Any:
        return self._file.get_slice(f"{self._prefix}{name}")


def _gathered(column: Any, runs: Sequence[tuple[int, int]]) -> Array:
    """Return some stretches of a column, joined."""
    return np.concatenate([column[start:stop] for start, stop in runs])


def values(array: Array) -> Sequence[Value]:
    """Return classes, numbers or several numbers, (n,) or (n, c), as values."""
    if array.ndim > 1:
        return [tuple(map(float, row)) for row in array.tolist()]
    return [int(one) for one in array.tolist()] if array.dtype.kind in "iub" else [float(one) for one in array.tolist()]
