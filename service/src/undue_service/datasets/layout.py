"""Which columns play which part, checked against what a file has."""

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import SchemaSpec

from .dtypes import LISTED, NUMERIC
from .limits import MAX_RANK, MAX_ROW_ELEMENTS, too_large
from .refusals import bad_column, columns_not_found, malformed, quoted
from .source import Array, Columns, Schema
from .transforms import Transform

ARRAYS_TARGET, ARRAYS_ID, ARRAYS_WEIGHT = "targets", "ids", "weights"


def numeric_columns(spec: SchemaSpec) -> list[str]:
    """Return every column that holds numbers, once each: inputs, target, weight."""
    named = [column for columns in spec.inputs.values() for column in columns]
    named += [column for column in (spec.target, spec.weight) if column is not None]
    return list(dict.fromkeys(named))


def text_columns(spec: SchemaSpec) -> list[str]:
    """Return every column that holds text, once each: id, groups."""
    return list(dict.fromkeys([*([spec.id] if spec.id is not None else []), *spec.groups]))


def check_exist(spec: SchemaSpec, existing: Collection[str], file: str | None = None) -> None:
    """Refuse a schema that names columns the file does not have; `file` is its name where there are several.

    Raises:
        InvalidArgument: COLUMN_NOT_FOUND with the missing ones and the existing ones.
    """
    missing = [name for name in (*numeric_columns(spec), *text_columns(spec)) if name not in existing]
    if missing:
        raise columns_not_found(missing, existing, file)


def check_column(column: ColumnSchema) -> None:
    """Refuse a column that no model can take.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a type that is not read, or rows without a value.
        ResourceExhausted: one row is beyond the limits.
    """
    if column.dtype not in NUMERIC:
        raise bad_column(column.name, f"is {column.dtype}; a model's data is one of {LISTED}")
    if len(column.shape) > MAX_RANK:
        raise too_large(f"the number of axes of column {quoted(column.name)}", len(column.shape), MAX_RANK)
    elements = prod(column.shape)
    if elements == 0:
        raise bad_column(column.name, f"has rows of shape {column.shape}, which hold no value")
    if elements > MAX_ROW_ELEMENTS:
        raise too_large(f"the number of elements in a row of column {quoted(column.name)}", elements, MAX_ROW_ELEMENTS)


class Layout:
    """The parts of a data set in terms of its columns."""

    def __init__(self, spec: SchemaSpec, found: Mapping[str, ColumnSchema], classes: tuple[str, ...] = ()) -> None:
        """Check a schema against the columns found (`found` holds at least `numeric_columns(spec)`).

        Raises:
            InvalidArgument: DATASET_MALFORMED for columns that do not fit their part, or their transform.
            ResourceExhausted: one row is beyond the limits.
        """
        if not spec.inputs:
            raise malformed("the schema names no input")
        unknown = sorted(set(spec.transforms) - set(spec.inputs))
        if unknown:
            raise malformed(f"the schema transforms {quoted(unknown[0])}, which is no input")
        columns = numeric_columns(spec)
        for name in columns:
            check_column(found[name])
        self.columns = columns
        stacked = {name: _input(name, [found[column] for column in spec.inputs[name]]) for name in sorted(spec.inputs)}
        self._transforms = {name: Transform(given, stacked[name]) for name, given in spec.transforms.items()}
        self.schema = Schema(
            inputs=tuple(
                self._transforms[name].column if name in self._transforms else column
                for name, column in stacked.items()
            ),
            target=None if spec.target is None else _target(found[spec.target]),
            weight=None if spec.weight is None else _weight(found[spec.weight]),
            has_ids=spec.id is not None,
            groups=tuple(sorted(set(spec.groups))),
            classes=classes,
            origins={name: tuple(columns) for name, columns in spec.inputs.items()},
        )
        self.row_bytes = sum(NUMERIC[found[name].dtype].itemsize * prod(found[name].shape) for name in columns)
        self._spec = spec
        self._dtypes: dict[str, np.dtype[Any]] = {name: NUMERIC[column.dtype] for name, column in stacked.items()}

    def assemble(self, block: Mapping[str, Array], index: npt.NDArray[np.int64]) -> Columns:
        """Return the rows of a block of columns."""
        return Columns(
            inputs={name: self._assemble_input(name, block) for name in self._dtypes},
            targets=None if self._spec.target is None else block[self._spec.target],
            weights=None if self._spec.weight is None else block[self._spec.weight],
            index=index,
        )

    def _assemble_input(self, name: str, block: Mapping[str, Array]) -> Array:
        columns = self._spec.inputs[name]
        if len(columns) == 1:
            values = block[columns[0]]
        else:
            values = np.stack([block[column] for column in columns], axis=1, dtype=self._dtypes[name])
        return self._transforms[name](values) if name in self._transforms else values


def _input(name: str, columns: list[ColumnSchema]) -> ColumnSchema:
    if not columns:
        raise malformed(f"the schema names no column for input {quoted(name)}")
    if len(columns) == 1:
        return ColumnSchema(name, columns[0].dtype, columns[0].shape)
    for column in columns:
        if column.shape != ():
            text = f"has rows of shape {column.shape} and cannot be stacked with others: give it an input of its own"
            raise bad_column(column.name, text)
    dtype = np.result_type(*(NUMERIC[column.dtype] for column in columns))
    return ColumnSchema(name, dtype.name, (len(columns),))


def _target(column: ColumnSchema) -> ColumnSchema:
    if len(column.shape) > 1:
        text = f"has rows of shape {column.shape}; a target is one number or one list of numbers"
        raise bad_column(column.name, text)
    return column


def _weight(column: ColumnSchema) -> ColumnSchema:
    if column.shape != ():
        raise bad_column(column.name, f"has rows of shape {column.shape}; a weight is one number")
    return column
