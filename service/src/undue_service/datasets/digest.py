"""The digest of a data set: the same data has the same digest in every format."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np

from undue_service.domain.reports import ColumnSchema

from .dtypes import little
from .limits import block_rows
from .source import Array, Columns, DatasetSource, Schema


class DatasetDigest:
    r"""sha256 of a header and of one sha256 a column, so that blocks of any size come to the same.

    digest = sha256("undue dataset 1\n" ‖ header ‖ "\n" ‖ sha256(column₁) ‖ sha256(column₂) ‖ …)

    header: JSON (sorted keys, no spaces, ASCII) `{"columns": [[part, name, dtype, row shape], …], "rows": n}`.
    Columns, in this order: the inputs by name, the target, the weight, the ids, the groups by name; only inputs and
    groups carry a name, because how a file calls its target is no property of the data. A column's bytes are its values
    in row order, little-endian, C order, after the input's transform; those of ids and groups are their UTF-8 text and
    one NUL byte each.
    """

    def __init__(self, schema: Schema, rows: int) -> None:
        described = [["input", column.name, column.dtype, list(column.shape)] for column in schema.inputs]
        self._inputs = {column.name: hashlib.sha256() for column in schema.inputs}
        self._target, self._weight, self._ids = (hashlib.sha256() for _ in range(3))
        ends = []
        for part, column, state in (("target", schema.target, self._target), ("weight", schema.weight, self._weight)):
            if column is not None:
                described.append([part, "", column.dtype, list(column.shape)])
                ends.append(state)
        if schema.has_ids:
            described.append(["id", "", "utf8", []])
            ends.append(self._ids)
        self._groups = {name: hashlib.sha256() for name in schema.groups}
        described += [["group", name, "utf8", []] for name in schema.groups]
        ends += self._groups.values()
        self._states = [*self._inputs.values(), *ends]
        header = {"columns": described, "rows": rows}
        self._header = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()

    def update(self, columns: Columns, ids: Iterable[str] | None, groups: Mapping[str, Iterable[str]]) -> None:
        """Take in the next rows."""
        for name, state in self._inputs.items():
            state.update(_canonical(columns.inputs[name]))
        if columns.targets is not None:
            self._target.update(_canonical(columns.targets))
        if columns.weights is not None:
            self._weight.update(_canonical(columns.weights))
        if ids is not None:
            self._ids.update(_terminated(ids))
        for name, group in self._groups.items():
            group.update(_terminated(groups[name]))

    def hexdigest(self) -> str:
        """Return the digest of all rows taken in."""
        whole = hashlib.sha256(b"undue dataset 1\n" + self._header + b"\n")
        for state in self._states:
            whole.update(state.digest())
        return whole.hexdigest()


def digest_of(source: DatasetSource) -> str:
    """Return the digest of a source, reading it once."""
    digest = DatasetDigest(source.schema, len(source))
    for columns in source.batches(None, block_rows(row_bytes(source.schema))):
        rows = range(int(columns.index[0]), int(columns.index[-1]) + 1)
        digest.update(columns, source.ids(rows) if source.schema.has_ids else None, source.groups(rows))
    return digest.hexdigest()


def row_bytes(schema: Schema) -> int:
    """Return the size of one row's numbers."""
    columns: list[ColumnSchema | None] = [*schema.inputs, schema.target, schema.weight]
    return sum(np.dtype(c.dtype).itemsize * int(np.prod(c.shape, dtype=np.int64)) for c in columns if c is not None)


def _terminated(texts: Iterable[str]) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


def _canonical(values: Array) -> memoryview:
    return np.ascontiguousarray(values, dtype=little(values.dtype)).reshape(-1).view(np.uint8).data
