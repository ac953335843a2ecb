"""Opening a data set, and the one full reading that decides whether it can be used."""

from collections.abc import Callable
from pathlib import Path

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ArraysSource, DatasetReport, DataSource, FileSource, UploadedFile

from .arrays import open_arrays
from .checks import FiniteCheck, UniqueIds, WeightCheck
from .digest import DatasetDigest, row_bytes
from .limits import block_rows
from .npz import open_npz
from .parquet import ParquetSource
from .refusals import malformed
from .source import DatasetSource

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""


def open_source(source: DataSource, resolve: Callable[[str], Path]) -> DatasetSource:
    """Return a data set ready to be read; `resolve` finds an artifact's file by its digest.

    Raises:
        InvalidArgument: DATASET_MALFORMED for damaged files, types that are not read, and columns that do not fit
            their part; COLUMN_NOT_FOUND; ROWS_MISMATCH.
        ResourceExhausted: UPLOAD_TOO_LARGE where it is beyond the limits.
    """
    match source:
        case ArraysSource():
            return open_arrays(source, resolve)
        case FileSource(format="npz", files=(UploadedFile(digest=digest),)):
            return open_npz(resolve(digest), source.schema)
        case FileSource(format="parquet", files=(UploadedFile(digest=digest),)):
            return ParquetSource(resolve(digest), source.schema)
    raise malformed(f"{source.format!r} is no format that is read: npz, parquet")


def validate(source: DatasetSource, progress: Progress) -> DatasetReport:
    """Read every row once and say what is there.

    Inputs, targets and weights must be finite, weights non-negative and not all zero, ids unique.

    Raises:
        InvalidArgument: DATASET_EMPTY; NON_FINITE_DATA with column, first row and count; DUPLICATE_ID with the id and
            both rows; DATASET_MALFORMED for weights, or damage met while reading.
    """
    rows, schema = len(source), source.schema
    if rows == 0:
        raise InvalidArgument(Reason.DATASET_EMPTY, "the data set has no rows")
    digest = DatasetDigest(schema, rows)
    finite, weights, unique = FiniteCheck(schema), WeightCheck(schema), UniqueIds()
    for columns in source.batches(None, block_rows(row_bytes(schema))):
        ids = source.ids(range(int(columns.index[0]), int(columns.index[-1]) + 1)) if schema.has_ids else None
        finite.update(columns)
        weights.update(columns)
        unique.update(ids or ())
        digest.update(columns, ids)
        progress("reading", int(columns.index[-1]) + 1, rows)
    finite.finish()
    weights.finish()
    unique.finish(source)
    return DatasetReport(
        rows=rows,
        inputs=schema.inputs,
        target=schema.target,
        has_ids=schema.has_ids,
        has_weights=schema.has_weights,
        digest=digest.hexdigest(),
    )
