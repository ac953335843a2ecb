"""CSV files: read through once, into cells of 8 bytes on disk, so that rows are then found where they must be.

Text has to be parsed from its beginning, and a column's type is known at its end. Both are paid for once, when the
data set is opened: numbers and the codes of groups become one row-major matrix (n, k) of 8-byte cells, ids a file of
strings. Reading rows, in any order, is then a matter of offsets, and memory does not grow with the file.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import SchemaSpec

from .csv_numbers import NumberColumn
from .csv_records import header, records
from .files import DataFile
from .layout import check_exist, numeric_columns, text_columns
from .limits import BLOCK_BYTES, MAX_GROUP_BYTES, MAX_GROUP_VALUES, MAX_ROWS, too_large
from .refusals import bad_column, in_file, too_many_groups
from .scratch import Scratch
from .source import Array, spans
from .table import TableSource
from .texts import ListedTexts, Part, Texts, Utf8Texts, checked_texts, decoded, group_part

_CELL_BYTES = 8


def open_csv(files: list[DataFile], spec: SchemaSpec, scratch: Scratch) -> TableSource:
    """Return the data set in CSV files, plain or gzipped, whose rows follow each other.

    Raises:
        InvalidArgument: COLUMN_NOT_FOUND; DATASET_MALFORMED for files that are no CSV, values that are no numbers,
            and columns that do not fit their part.
        FailedPrecondition: DATASET_CHANGED.
        ResourceExhausted: UPLOAD_TOO_LARGE where it is beyond the limits; STORAGE_FULL.
    """
    several = len(files) > 1
    headers = [header(file) for file in files]
    for file, names in zip(files, headers, strict=True):
        check_exist(spec, names, file.name if several else None)
    table = _Table(spec, scratch)
    for file, names in zip(files, headers, strict=True):
        first = table.rows
        try:
            for _, batch in records(file, names, table.wanted):
                table.append(batch)
        except InvalidArgument as error:
            if not several or "file" in error.metadata:
                raise
            raise in_file(error, file.name, first) from error
    return table.source()


class _Table:
    def __init__(self, spec: SchemaSpec, scratch: Scratch) -> None:
        self.rows = 0
        self.wanted = list(dict.fromkeys([*numeric_columns(spec), *text_columns(spec)]))
        self._spec = spec
        self._numbers = {name: NumberColumn(name) for name in numeric_columns(spec)}
        self._groups = {name: _Codes(group_part(name)) for name in spec.groups}
        self._matrix = scratch.file()
        self._ids = scratch.file() if spec.id is not None else None

    def append(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        columns = dict(zip(self.wanted, batch.columns, strict=True))
        cells = np.empty((batch.num_rows, len(self._numbers) + len(self._groups)), np.int64)
        for place, (name, number) in enumerate(self._numbers.items()):
            cells[:, place] = number.cells(columns[name], self.rows).view(np.int64)
        for place, (name, codes) in enumerate(self._groups.items(), len(self._numbers)):
            cells[:, place] = codes.cells(columns[name], self.rows)
        self._matrix.write(cells.data.cast("B"))
        if self._ids is not None and self._spec.id is not None:
            part = Part(self._spec.id)
            raw = enumerate(columns[self._spec.id].to_pylist(), self.rows)
            texts = checked_texts(((row, decoded(token, part, row)) for row, token in raw), part)
            self._ids.write(b"".join(text.encode() + b"\0" for text in texts))
        self.rows += batch.num_rows
        if self.rows > MAX_ROWS:
            raise too_large("the number of rows", self.rows, MAX_ROWS)

    def source(self) -> TableSource:
        """Return what was taken in."""
        shape = (self.rows, len(self._numbers) + len(self._groups))
        numbers = list(self._numbers.values())
        if any(number.integer_rows for number in numbers):
            _widen(self._matrix.mapped(np.dtype(np.int64), shape, "r+"), numbers)
        matrix = self._matrix.mapped(np.dtype(np.int64), shape)
        columns = {name: _view(matrix, place, number) for place, (name, number) in enumerate(self._numbers.items())}
        groups = {
            name: ListedTexts(codes.texts, matrix[:, place])
            for place, (name, codes) in enumerate(self._groups.items(), len(numbers))
        }
        return TableSource(self._spec, columns, self._id_texts(), groups)

    def _id_texts(self) -> Texts | None:
        if self._ids is None or self._spec.id is None:
            return None
        return Utf8Texts(self._ids.mapped(np.dtype(np.uint8), (self._ids.size,)), Part(self._spec.id), self.rows)


class _Codes:
    """The values of a column of groups, numbered as they come."""

    def __init__(self, part: Part) -> None:
        self.texts: list[str] = []
        self._part = part
        self._codes: dict[bytes, int] = {}
        self._size = 0

    def cells(self, tokens: pa.BinaryArray, first_row: int) -> Array:
        """Return the numbers of a block's values, (B,)."""
        encoded = tokens.dictionary_encode()
        places = encoded.indices.to_numpy()
        numbers = np.empty(len(encoded.dictionary), np.int64)
        for place, token in enumerate(encoded.dictionary.to_pylist()):
            code = self._codes.get(token)
            if code is None:
                row = first_row + int(np.argmax(places == place))
                self.texts += checked_texts([(row, decoded(token, self._part, row))], self._part)
                code = self._codes[token] = len(self._codes)
                self._bound(len(token))
            numbers[place] = code
        return numbers[places]

    def _bound(self, size: int) -> None:
        self._size += size
        if len(self.texts) > MAX_GROUP_VALUES:
            raise too_many_groups(self._part.column)
        if self._size > MAX_GROUP_BYTES:
            raise bad_column(self._part.column, f"has different values of more than {MAX_GROUP_BYTES:,} bytes together")


def _view(matrix: Array, place: int, number: NumberColumn) -> Array:
    if number.kind == "bool":  # the lowest byte of a cell
        return matrix.view(np.uint8)[:, place * _CELL_BYTES].view(np.bool_)
    return matrix[:, place].view(np.dtype(number.kind or np.float64))


def _widen(matrix: Array, numbers: Sequence[NumberColumn]) -> None:
    """Make floats of the integers that came before a column's first float."""
    floats = matrix.view(np.float64)
    for start, stop in spans(len(matrix), max(1, BLOCK_BYTES // (_CELL_BYTES * matrix.shape[1]))):
        for place, number in enumerate(numbers):
            end = min(stop, number.integer_rows)
            if end > start:
                floats[start:end, place] = matrix[start:end, place].astype(np.float64)
