"""The rows of several data sets as those of one, numbered through."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from undue_service.datasets.source import Array, Columns, DatasetSource, Schema, checked_rows, spans
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.engine.data import Batch
from undue_service.runner.rows import batch

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A data set with the name that messages call it by."""

    name: str
    source: DatasetSource


class JoinedRows:
    """The engine's Rows over data sets that follow each other."""

    def __init__(self, parts: Sequence[NamedSource]) -> None:
        """Hold data sets whose rows are of one kind.

        Raises:
            InvalidArgument: INPUT_MISMATCH, TARGET_MISMATCH naming the data set that differs from the first.
        """
        self._sources = [part.source for part in parts]
        first = parts[0]
        for part in parts[1:]:
            _compare(first, part)
        self._names = [column.name for column in first.source.schema.inputs]
        self._weighted = any(source.schema.has_weights for source in self._sources)
        self._starts = np.cumsum([0, *map(len, self._sources)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the rows in order, at most `size` at a time; only `rows`, in that order, if given.

        Raises:
            InvalidArgument: ROW_OUT_OF_RANGE; whatever reading meets.
        """
        if rows is None:
            pairs = zip(self._starts, self._sources, strict=False)
            return (batch(self._numbered(one, start)) for start, source in pairs for one in source.batches(None, size))
        wanted = checked_rows(rows, len(self))
        return (batch(self._read(wanted[a:b])) for a, b in spans(len(wanted), size))

    def places(self, rows: Places) -> tuple[Places, Places]:
        """Return the place of each row's data set, and its number there, (r,) each."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        return which, rows - self._starts[which]

    def ids(self, rows: Places) -> list[str]:
        """Return the id of each row: the row number of its data set where that has none."""
        which, within = self.places(rows)
        found = [""] * len(rows)
        for place in np.unique(which).tolist():
            here = np.flatnonzero(which == place)
            for at, identity in zip(here.tolist(), self._sources[place].ids(within[here].tolist()), strict=True):
                found[at] = identity
        return found

    def dtypes(self) -> dict[str, np.dtype[np.generic]]:
        """Return in which type each input comes where rows of all data sets are read together."""
        columns = zip(*(source.schema.inputs for source in self._sources), strict=True)
        return {
            name: np.result_type(*(np.dtype(column.dtype) for column in one))
            for name, one in zip(self._names, columns, strict=True)
        }

    def _read(self, rows: Places) -> Columns:
        which, within = self.places(rows)
        parts = []
        for place in np.unique(which).tolist():
            here = np.flatnonzero(which == place)
            [found] = self._sources[place].batches(within[here], len(here))  # type: ignore[arg-type]
            if len(here) == len(rows):
                return self._numbered(found, self._starts[place])
            parts.append((here, self._numbered(found, self._starts[place])))
        return self._interleaved(rows, parts)

    def _interleaved(self, rows: Places, parts: Sequence[tuple[Places, Columns]]) -> Columns:
        def put(values: Sequence[Array]) -> Array:
            shape = (len(rows), *values[0].shape[1:])
            together = np.empty(shape, np.result_type(*values))
            for (here, _), one in zip(parts, values, strict=True):
                together[here] = one
            return together

        inputs = {name: put([part.inputs[name] for _, part in parts]) for name in self._names}
        known = [part.targets for _, part in parts if part.targets is not None]
        weights = [part.weights for _, part in parts if part.weights is not None]
        return Columns(inputs, put(known) if known else None, put(weights) if weights else None, rows)

    def _numbered(self, found: Columns, start: np.int64) -> Columns:
        """Return rows of one data set by their numbers here, under the names of the first."""
        inputs = found.inputs
        if len(self._names) == 1:
            inputs = {self._names[0]: next(iter(inputs.values()))}
        weights = found.weights
        if weights is None and self._weighted:
            weights = np.ones(len(found.index))
        return Columns(inputs, found.targets, weights, found.index + start)


def _compare(first: NamedSource, other: NamedSource) -> None:
    known, found = first.source.schema, other.source.schema
    names = [_inputs(schema, named=len(known.inputs) > 1) for schema in (known, found)]
    if names[0] != names[1]:
        text = f"rows of {other.name} have the inputs {_listed(names[1])}, those of {first.name} {_listed(names[0])}"
        raise InvalidArgument(Reason.INPUT_MISMATCH, f"{text}: register the data set with rows of the same shapes")
    targets = [None if schema.target is None else schema.target.shape for schema in (known, found)]
    if targets[0] != targets[1]:
        kinds = ["no targets" if shape is None else f"targets of shape {shape}" for shape in targets]
        text = f"rows of {other.name} have {kinds[1]}, those of {first.name} {kinds[0]}"
        raise InvalidArgument(Reason.TARGET_MISMATCH, f"{text}: register the data set with targets like those")


def _inputs(schema: Schema, *, named: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a row's inputs; a single one is known without its name."""
    return {column.name if named else "": column.shape for column in schema.inputs}


def _listed(inputs: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name or 'input'} {shape}" for name, shape in inputs.items())
