"""Opening a data set, and the one full reading that decides whether it can be used."""

from collections.abc import Callable
from pathlib import Path

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import DatasetReport
from undue_service.domain.specs import ArraysSource, DataSource

from .arrays import open_arrays
from .checks import FiniteCheck, GroupCount, UniqueIds, Variation, WeightCheck
from .csv import open_csv
from .digest import DatasetDigest, row_bytes
from .files import DataFile, data_files
from .idx import open_idx
from .image_folder import open_image_folder
from .limits import block_rows
from .npz import open_npz
from .parquet import ParquetSource
from .refusals import malformed
from .scratch import Scratch
from .source import DatasetSource
from .unpacking import unpacked

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""


def open_source(
    source: DataSource, resolve: Callable[[str], Path], scratch: Path | None = None, *, by_row: bool = False
) -> DatasetSource:
    """Return a data set ready to be read; `resolve` finds an artifact's file by its digest.

    CSV and compressed IDX files are unpacked once, into nameless files in the folder `scratch`, or where the system
    keeps temporary files; `by_row` asks for that of Parquet files too, whose rows are otherwise decoded in groups.

    Raises:
        InvalidArgument: DATASET_MALFORMED for damaged files, types that are not read, and columns that do not fit
            their part; COLUMN_NOT_FOUND; ROWS_MISMATCH.
        FailedPrecondition: DATASET_CHANGED where a file is no longer the one that was registered.
        ResourceExhausted: UPLOAD_TOO_LARGE where it is beyond the limits; STORAGE_FULL.
    """
    if isinstance(source, ArraysSource):
        return open_arrays(source, resolve)
    files = data_files(source, resolve)
    if not files:
        raise malformed("the data set has no files")
    match source.format:
        case "npz":
            return open_npz(_only(files), source.schema)
        case "parquet":
            table = ParquetSource(files, source.schema)
            return unpacked(table, source.schema, Scratch(scratch)) if by_row and len(table) else table
        case "csv":
            return open_csv(files, source.schema, Scratch(scratch))
        case "idx":
            return open_idx(files, source.schema, Scratch(scratch))
        case "image_folder":
            return open_image_folder(files, source.schema, Scratch(scratch))
    raise malformed(f"{source.format!r} is no format that is read: npz, parquet, csv, idx, image_folder")


def _only(files: list[DataFile]) -> DataFile:
    if len(files) > 1:
        raise malformed(f"an NPZ data set is one file, and {len(files):,} are given: register them one by one")
    return files[0]


def validate(source: DatasetSource, progress: Progress, files: tuple[str, ...] = ()) -> DatasetReport:
    """Read every row once and say what is there; `files` are the names of what is read.

    Inputs, targets and weights must be finite, weights non-negative and not all zero, ids unique.

    Raises:
        InvalidArgument: DATASET_EMPTY; NON_FINITE_DATA with column, first row and count; DUPLICATE_ID with the id and
            both rows; DATASET_MALFORMED for weights, groups without end, or damage met while reading.
    """
    rows, schema = len(source), source.schema
    if rows == 0:
        raise InvalidArgument(Reason.DATASET_EMPTY, "the data set has no rows")
    digest = DatasetDigest(schema, rows)
    finite, weights, unique, counted = FiniteCheck(schema), WeightCheck(schema), UniqueIds(), GroupCount(schema)
    variation = Variation()
    for columns in source.batches(None, block_rows(row_bytes(schema))):
        here = range(int(columns.index[0]), int(columns.index[-1]) + 1)
        ids = source.ids(here) if schema.has_ids else None
        groups = source.groups(here) if schema.groups else {}
        finite.update(columns)
        weights.update(columns)
        unique.update(ids or ())
        counted.update(groups)
        variation.update(columns)
        digest.update(columns, ids, groups)
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
        groups=counted.finish(),
        classes=schema.classes,
        files=files,
        inputs_vary=variation.inputs,
        targets_vary=variation.targets,
    )
