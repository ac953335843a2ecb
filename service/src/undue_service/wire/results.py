"""Result files of jobs: safetensors, written by a runner and read by the API process.

explanations: for each of m explained rows `row`, `ids`, `prediction`, `target`, `loss` (m,), and `helpful_rows`,
`helpful_scores`, `harmful_rows`, `harmful_scores` (m, k), unused places −1; for each of the u training rows named in
them `train_row` (ascending), `train_ids`, `train_prediction`, `train_target`, `train_loss` (u,). Of rows that are
explained together m is 1, `loss` their mean, and there is `rows` (r,) instead of `prediction` and `target`.
self_influences: `row`, `ids`, `score`, `prediction`, `target`, `loss` (n,), most self-influential first.
scores: `scores` (m, n) float32.
rows: for each of m rows of a data set `row`, `ids`, `input.{name}` (m, …), and where there are any `targets`,
`weights`, `group.{name}`, strings like the ids.
counterfactuals: of m test rows `rows` and `costs` (m,); of k fits `changes` (k, m), `gradient_norm`, `iterations` (k,),
and the training rows that fit j goes without, `without`[`offsets`[j] : `offsets`[j + 1]].

Integer predictions and targets are classes, floating ones numbers, (m, c) ones several numbers. Strings are UTF-8,
each ended by a NUL byte.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from undue_service.domain.results import Counterfactual, Explanation, Instances, ScoredExample, Value

Array = npt.NDArray[Any]

BLOCK_BYTES = 1 << 20
PAGE_BYTES = 1 << 20
"""Most bytes of counterfactuals as messages in a page that has more than one."""
PAGE_EXAMPLES = 20_000
"""Most scored rows in a page of explanations: about 1 MiB as messages."""


def write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write one result file.

    Raises:
        OSError: the disk is full, or another failure of the file system.
    """
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    except SafetensorError as error:
        # The library tells the system's errors apart in its text alone.
        if (code := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def encode_texts(ids: Sequence[str]) -> Array:
    """Return strings as bytes, each ended by a NUL byte."""
    return np.frombuffer("".join(f"{one}\0" for one in ids).encode(), dtype=np.uint8)


def decode_texts(encoded: Array) -> tuple[str, ...]:
    """Return the strings that `encode_texts` made bytes of."""
    return tuple(encoded.tobytes().decode().split("\0")[:-1])


class SafetensorsResults:
    """ResultReader over these files."""

    def explanations(self, path: Path, start: int, count: int) -> tuple[tuple[Explanation, ...], int | None]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            train = _Examples(file, "train_")
            places = {int(row): place for place, row in enumerate(train.rows)}
            tests = _Examples(file, "")
            _, k = file.get_slice("helpful_rows").get_shape()
            count = max(1, min(count, PAGE_EXAMPLES // (2 * max(1, k))))
            here = range(start, min(start + count, len(tests.rows)))
            if not here:
                return (), None
            rows = tuple(file.get_tensor("rows").tolist()) if "rows" in file.keys() else ()  # noqa: SIM118  no mapping
            sides = {name: file.get_slice(name)[here.start : here.stop] for name in _SIDES}

        def scored(side: str, at: int) -> tuple[ScoredExample, ...]:
            rows, scores = sides[f"{side}_rows"][at], sides[f"{side}_scores"][at]
            return tuple(
                train.scored(places[int(row)], float(score))
                for row, score in zip(rows, scores, strict=True)
                if row >= 0
            )

        found = tuple(
            Explanation(
                row=int(tests.rows[place]),
                id=tests.ids[place],
                prediction=None if tests.predictions is None else _value(tests.predictions, place),
                target=None if tests.targets is None else _value(tests.targets, place),
                loss=float(tests.losses[place]),
                helpful=scored("helpful", place - start),
                harmful=scored("harmful", place - start),
                rows=rows,
            )
            for place in here
        )
        return found, here.stop if here.stop < len(tests.rows) else None

    def self_influences(self, path: Path, start: int, count: int) -> tuple[tuple[ScoredExample, ...], int | None]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            examples, scores = _Examples(file, ""), file.get_tensor("score")
        places = range(start, min(start + count, len(scores)))
        found = tuple(examples.scored(place, float(scores[place])) for place in places)
        return found, places.stop if places.stop < len(scores) else None

    def measured(self, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("rows"), file.get_tensor("costs")

    def counterfactuals(self, path: Path, start: int, count: int) -> tuple[tuple[Counterfactual, ...], int | None]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            offsets, without = file.get_tensor("offsets"), file.get_slice("without")
            norms, iterations = file.get_tensor("gradient_norm"), file.get_tensor("iterations")
            slices = file.get_slice("changes")
            k, m = slices.get_shape()
            here = range(start, max(start, min(start + count, k)))
            sizes = np.cumsum(8 * m + 5 * np.diff(offsets[here.start : here.stop + 1]) + 64)
            here = here[: max(1, int(np.searchsorted(sizes, PAGE_BYTES, side="right")))]
            if not here:
                return (), None
            changes = slices[here.start : here.stop]
            removed = without[int(offsets[here.start]) : int(offsets[here.stop])]
        found = tuple(
            Counterfactual(
                index=index,
                without=tuple(removed[offsets[index] - offsets[start] : offsets[index + 1] - offsets[start]].tolist()),
                changes=tuple(changes[index - start].tolist()),
                gradient_norm=float(norms[index]),
                iterations=int(iterations[index]),
            )
            for index in here
        )
        return found, here.stop if here.stop < k else None

    def counterfactual_blocks(self, path: Path) -> Iterator[tuple[Counterfactual, ...]]:
        """See ResultReader."""
        start: int | None = 0
        while start is not None:
            block, start = self.counterfactuals(path, start, sys.maxsize)
            yield block

    def score_blocks(self, path: Path) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            scores = file.get_slice("scores")
            rows, columns = scores.get_shape()
            size = max(1, BLOCK_BYTES // (4 * max(1, columns)))
            for first in range(0, rows, size):
                yield first, scores[first : min(first + size, rows)]

    def rows(self, path: Path) -> Instances:
        """See ResultReader. Sent on as they are: what a runner left must not pass for rows that it is not."""
        try:
            with safe_open(path, framework="numpy") as file:
                arrays: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = Instances(
                rows=tuple(arrays["row"].tolist()),
                inputs=_named(arrays, "input."),
                targets=arrays.get("targets"),
                weights=arrays.get("weights"),
                ids=decode_texts(arrays["ids"]),
                groups={name: decode_texts(values) for name, values in _named(arrays, "group.").items()},
            )
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path.name} holds no rows: {error}") from error
        columns = (*found.inputs.values(), found.targets, found.weights, found.ids, *found.groups.values())
        if any(len(column) != len(found.rows) for column in columns if column is not None):
            raise ValueError(f"{path.name} holds columns of different lengths")
        return found


_SIDES = ("helpful_rows", "helpful_scores", "harmful_rows", "harmful_scores")


class _Examples:
    """The columns that say what a row is."""

    def __init__(self, file: Any, prefix: str) -> None:
        self.rows: Array = file.get_tensor(f"{prefix}row")
        self.ids = file.get_tensor(f"{prefix}ids").tobytes().decode().split("\0")
        known = f"{prefix}target" in file.keys()  # noqa: SIM118  no mapping
        self.predictions: Array | None = file.get_tensor(f"{prefix}prediction") if known else None
        self.targets: Array | None = file.get_tensor(f"{prefix}target") if known else None
        self.losses: Array = file.get_tensor(f"{prefix}loss")

    def scored(self, place: int, score: float) -> ScoredExample:
        assert self.targets is not None  # noqa: S101  only rows that are explained together have none
        assert self.predictions is not None  # noqa: S101
        return ScoredExample(
            row=int(self.rows[place]),
            id=self.ids[place],
            score=score,
            target=_value(self.targets, place),
            prediction=_value(self.predictions, place),
            loss=float(self.losses[place]),
        )


def _named(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _value(array: Array, place: int) -> Value:
    if array.ndim > 1:
        return tuple(float(number) for number in array[place])
    return int(array[place]) if array.dtype.kind in "iub" else float(array[place])
