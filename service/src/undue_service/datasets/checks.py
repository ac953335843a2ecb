"""What validation holds against the values of a data set, block by block."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import GroupSchema

from .limits import MAX_GROUP_VALUES
from .refusals import bad_column, bad_value, quoted, too_many_groups
from .source import Array, Columns, DatasetSource, Schema

_HASH = np.dtype([("high", "<u8"), ("low", "<u8")])


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass(slots=True)
class _Found:
    row: int
    value: float
    where: str
    column: str
    count: int = 0


class FiniteCheck:
    """No NaN and no infinity in inputs, targets and weights."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._found: dict[str, _Found] = {}

    def update(self, columns: Columns) -> None:
        """Take in the next rows."""
        for name, values in columns.inputs.items():
            self._check(f"input {quoted(name)}", values, columns.index, self._schema.origins[name])
        for part, schema, array in (
            ("target", self._schema.target, columns.targets),
            ("weight", self._schema.weight, columns.weights),
        ):
            if schema is not None and array is not None:
                self._check(part, array, columns.index, (schema.name,))

    def finish(self) -> None:
        """Raise InvalidArgument (NON_FINITE_DATA) for the part that was wrong in the first row, with its count."""
        if not self._found:
            return
        part, found = min(self._found.items(), key=lambda item: item[1].row)
        values = "1 value that is" if found.count == 1 else f"{found.count:,} values that are"
        text = f"the {part} has {values} not finite, the first {found.value} at row {found.row}{found.where}"
        metadata = {"column": found.column[:200], "row": str(found.row), "count": str(found.count)}
        raise InvalidArgument(Reason.NON_FINITE_DATA, f"{text}: fill in or drop such rows", metadata=metadata)

    def _check(self, part: str, values: Array, index: Array, origins: tuple[str, ...]) -> None:
        if values.dtype.kind != "f":
            return
        wrong = ~np.isfinite(values)
        count = int(np.count_nonzero(wrong))
        if count == 0:
            return
        if part not in self._found:
            at = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
            # A transform may have given the row another shape; stacked columns keep their order in it.
            place = int(np.ravel_multi_index(at[1:], wrong.shape[1:])) if at[1:] else 0
            column = origins[place] if len(origins) > 1 else origins[0]
            where = f", column {quoted(column)}"
            if len(origins) == 1 and at[1:]:
                where += f", element {list(at[1:])}"
            self._found[part] = _Found(int(index[at[0]]), float(values[at]), where, column)
        self._found[part].count += count


class WeightCheck:
    """No weight below zero, and at least one above."""

    def __init__(self, schema: Schema) -> None:
        self._name = schema.weight.name if schema.weight is not None else ""
        self._needed = schema.weight is not None
        self._positive = False
        self._negative: tuple[int, float] | None = None

    def update(self, columns: Columns) -> None:
        """Take in the next rows."""
        if columns.weights is None:
            return
        self._positive = self._positive or bool((columns.weights > 0).any())
        wrong = np.flatnonzero(columns.weights < 0)
        if wrong.size and self._negative is None:
            self._negative = (int(columns.index[wrong[0]]), float(columns.weights[wrong[0]]))

    def finish(self) -> None:
        """Raise InvalidArgument (DATASET_MALFORMED) for what was found."""
        if self._negative is not None:
            row, weight = self._negative
            raise bad_value(self._name, row, f"the weight {weight:g} is negative; weights are at least 0")
        if self._needed and not self._positive:
            raise bad_column(self._name, "holds no weight but 0; at least one must be positive")


class GroupCount:
    """How many different values each column of groups has. Keeps 16 bytes a value, and a bounded number of values."""

    def __init__(self, schema: Schema) -> None:
        self._seen: dict[str, set[bytes]] = {name: set() for name in schema.groups}

    def update(self, groups: Mapping[str, Iterable[str]]) -> None:
        """Take in the next rows.

        Raises:
            InvalidArgument: DATASET_MALFORMED for a column that has more values than groups are worth.
        """
        for name, seen in self._seen.items():
            seen.update(map(_hash, set(groups[name])))
            if len(seen) > MAX_GROUP_VALUES:
                raise too_many_groups(name)

    def finish(self) -> tuple[GroupSchema, ...]:
        """Return what was counted."""
        return tuple(GroupSchema(name, len(seen)) for name, seen in self._seen.items())


class Variation:
    """Whether inputs and targets differ between rows at all."""

    def __init__(self) -> None:
        self._first: dict[str, Array] = {}
        self._varies: set[str] = set()

    def update(self, columns: Columns) -> None:
        """Take in the next rows."""
        parts = {f"input {name}": values for name, values in columns.inputs.items()}
        if columns.targets is not None:
            parts["target"] = columns.targets
        for part, values in parts.items():
            first = self._first.setdefault(part, values[0].copy())
            if part not in self._varies and bool((values != first).any()):
                self._varies.add(part)

    @property
    def inputs(self) -> bool:
        """Whether any input does."""
        return any(part.startswith("input ") for part in self._varies)

    @property
    def targets(self) -> bool:
        """Whether the targets do."""
        return "target" in self._varies


class UniqueIds:
    """No id twice. Keeps 16 bytes a row: a 128-bit hash, which two different ids share never in practice."""

    def __init__(self) -> None:
        self._hashes = bytearray()

    def update(self, ids: Iterable[str]) -> None:
        """Take in the ids of the next rows."""
        self._hashes += b"".join(map(_hash, ids))

    def finish(self, source: DatasetSource) -> None:
        """Raise InvalidArgument (DUPLICATE_ID) with the first id that comes again and both its rows."""
        hashes = np.frombuffer(self._hashes, _HASH)
        order = np.lexsort((hashes["low"], hashes["high"]))  # stable: equal ids stay in row order
        again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        if not again.size:
            return
        which = again[np.argmin(order[again + 1])]
        first, second = int(order[which]), int(order[which + 1])
        id_ = source.ids([first])[0]
        text = f"rows {first} and {second} have the same id, {quoted(id_)}: ids must be unique"
        metadata = {"id": id_[:200], "rows": f"{first},{second}"}
        raise InvalidArgument(Reason.DUPLICATE_ID, text, metadata=metadata)
