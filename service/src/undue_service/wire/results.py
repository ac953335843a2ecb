"""Result files of jobs: safetensors, written by a runner and read by the API process; others are `documents`.

explanations: for each of m explained rows `row`, `ids`, `prediction`, `target`, `loss` (m,), and `helpful_rows`,
`helpful_scores`, `harmful_rows`, `harmful_scores` (m, k), unused places −1; for each of the u training rows named in
them `train_row` (ascending), `train_ids`, `train_prediction`, `train_target`, `train_loss` (u,). Of rows that are
explained together m is 1, `loss` their mean, and there is `rows` (r,) instead of `prediction` and `target`.
self_influences: `row`, `ids`, `score`, `prediction`, `target`, `loss` (n,), most self-influential first.
Beside the ids of these two are `id_offsets` (n + 1,), `train_id_offsets`: id j is the bytes from offset j to j + 1.
scores: `scores` (m, n) float32.
rows: for each of m rows of a data set `row`, `ids`, `input.{name}` (m, …), and where there are any `targets`,
`weights`, `group.{name}`, strings like the ids.
counterfactuals: of m test rows `rows` and `costs` (m,); of k fits `changes` (k, m), `gradient_norm`, `iterations` (k,),
and the training rows that fit j goes without, `without`[`offsets`[j] : `offsets`[j + 1]].
comparisons: of m test rows `rows` (m,); of k retrainings `predicted` and `measured` (k, m), and either `without` and
`stratum` (k,), −1 for a row that was drawn from all, or `subset` (k, s).
leverages: of n training rows `ids`, `leverage`, `cooks_distance` (n,), and where it was kept `dfbeta` (n, P) with
`coefficients`, P strings; `effective_parameters` and `variance` (1,).
mislabels and suspects: see `mislabels`.

Integer predictions and targets are classes, floating ones numbers, (m, c) ones several numbers. Strings are UTF-8,
each ended by a NUL byte.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from undue_service.domain.comparison_findings import CompareFinding
from undue_service.domain.group_findings import GroupFinding
from undue_service.domain.mislabels import MislabelCurve, RankingName
from undue_service.domain.results import (
    Comparison,
    Counterfactual,
    Explanation,
    Instances,
    LeverageBlock,
    ScoredExample,
)

from . import examples, mislabels
from .codec import COMPARE_FINDING, GROUP_FINDING
from .documents import read_lines
from .examples import Array, Page, blocks, decode_texts, fitting

BLOCK_BYTES = 1 << 20
LEVERAGE_ROWS = 4096
"""Of a block, at most: their ids are of any length."""
_ROW_BYTES = 5
"""Of most row numbers in a message."""


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


class SafetensorsResults:
    """ResultReader over these files."""

    def explanations(self, path: Path, start: int, count: int) -> Page[Explanation]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            return examples.explanations(file, start, count)

    def explanation_blocks(self, path: Path) -> Iterator[tuple[Explanation, ...]]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            yield from blocks(partial(examples.explanations, file))

    def self_influences(self, path: Path, start: int, count: int) -> Page[ScoredExample]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            return examples.self_influences(file, start, count)

    def self_influence_blocks(self, path: Path) -> Iterator[tuple[ScoredExample, ...]]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            yield from blocks(partial(examples.self_influences, file))

    def measured(self, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("rows"), file.get_tensor("costs")

    def counterfactuals(self, path: Path, start: int, count: int) -> Page[Counterfactual]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            offsets, without = file.get_tensor("offsets"), file.get_slice("without")
            norms, iterations = file.get_tensor("gradient_norm"), file.get_tensor("iterations")
            slices = file.get_slice("changes")
            k, m = slices.get_shape()
            here = range(start, max(start, min(start + count, k)))
            here = here[: fitting(8 * m + 5 * np.diff(offsets[here.start : here.stop + 1]) + 64)]
            if not here:
                return (), None
            changes = slices[here.start : here.stop]
            first, last = int(offsets[here.start]), int(offsets[here.stop])
            # safetensors refuses an empty slice at a tensor's end, as where edits remove nothing.
            removed = without[first:last] if first < last else np.empty(0, dtype=np.int64)
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
        yield from blocks(partial(self.counterfactuals, path))

    def compared(self, path: Path) -> npt.NDArray[np.int64]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            rows: npt.NDArray[np.int64] = file.get_tensor("rows")
            return rows

    def comparisons(self, path: Path, start: int, count: int) -> Page[Comparison]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            predicted, measured = (file.get_slice(name) for name in ("predicted", "measured"))
            k, m = predicted.get_shape()
            in_subsets = "subset" in file.keys()  # noqa: SIM118  no mapping
            drawn = file.get_slice("subset" if in_subsets else "without")
            size = drawn.get_shape()[1] if in_subsets else 1
            here = range(start, max(start, min(start + count, k)))
            here = here[: fitting(np.full(len(here), 16 * m + _ROW_BYTES * size + 64))]
            if not here:
                return (), None
            at = slice(here.start, here.stop)
            columns = zip(
                here,
                drawn[at].reshape(len(here), -1).tolist(),
                [-1] * len(here) if in_subsets else file.get_slice("stratum")[at].tolist(),
                predicted[at].tolist(),
                measured[at].tolist(),
                strict=True,
            )
        found = tuple(
            Comparison(
                index=index,
                without=() if in_subsets else tuple(rows),
                subset=tuple(rows) if in_subsets else (),
                stratum=None if stratum < 0 else stratum,
                predicted=tuple(a),
                measured=tuple(b),
            )
            for index, rows, stratum, a, b in columns
        )
        return found, here.stop if here.stop < k else None

    def comparison_blocks(self, path: Path) -> Iterator[tuple[Comparison, ...]]:
        """See ResultReader."""
        yield from blocks(partial(self.comparisons, path))

    def leverage_blocks(self, path: Path) -> Iterator[LeverageBlock]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            leverage, distance, ids, offsets = (
                file.get_slice(name) for name in ("leverage", "cooks_distance", "ids", "id_offsets")
            )
            parameters, variance = (file.get_tensor(name).item() for name in ("effective_parameters", "variance"))
            kept = "dfbeta" in file.keys()  # noqa: SIM118  no mapping
            dfbeta = file.get_slice("dfbeta") if kept else None
            coefficients = decode_texts(file.get_tensor("coefficients")) if kept else ()
            [n] = leverage.get_shape()
            own = 8 * len(coefficients)
            size = min(LEVERAGE_ROWS, max(1, BLOCK_BYTES // (own + 64)))
            for first in range(0, n, size):
                at = slice(first, min(first + size, n))
                bounds = offsets[first : at.stop + 1]
                yield LeverageBlock(
                    first=first,
                    ids=decode_texts(ids[int(bounds[0]) : int(bounds[-1])]),
                    leverage=leverage[at],
                    cooks_distance=distance[at],
                    dfbeta=None if dfbeta is None else dfbeta[at],
                    coefficients=coefficients if first == 0 else (),
                    effective_parameters=parameters,
                    variance=variance,
                )

    def mislabel_curves(self, path: Path) -> tuple[MislabelCurve, ...]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            return mislabels.curves(file)

    def suspects(self, path: Path, start: int, count: int) -> Page[tuple[RankingName, ScoredExample]]:
        """See ResultReader."""
        with safe_open(path, framework="numpy") as file:
            return mislabels.suspects(file, start, count)

    def group_findings(self, path: Path) -> Iterator[tuple[GroupFinding, ...]]:
        """See ResultReader."""
        yield from read_lines(path, GROUP_FINDING)

    def compare_findings(self, path: Path) -> Iterator[tuple[CompareFinding, ...]]:
        """See ResultReader."""
        yield from read_lines(path, COMPARE_FINDING)

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


def _named(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
