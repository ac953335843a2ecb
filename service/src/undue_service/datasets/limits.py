"""Bounds on what a data file may ask for. A file beyond one is refused by name of the bound."""

from undue_service.domain.errors import Reason, ResourceExhausted

MAX_ROWS = 2**31 - 1
MAX_ROW_ELEMENTS = 2**28
"""Elements in one row of one column."""
MAX_RANK = 16
MAX_COLUMNS = 100_000
"""Columns of a Parquet file, members of an NPZ archive."""
MAX_LOADED_BYTES = 4 * 2**30
"""Arrays of one NPZ archive that have to be held in memory; members stored without compression are mapped instead."""
MAX_DIRECTORY_BYTES = 16 * 2**20
"""Table of contents of an NPZ archive."""
MAX_NPY_HEADER_BYTES = 10_000
"""NumPy's own bound."""
MAX_TEXT_BYTES = 4096
"""One id or group value in UTF-8."""
MAX_GROUP_VALUES = 100_000
"""Different values of one column of groups."""
MAX_GROUP_BYTES = 16 * 2**20
"""Different values of one column of groups, together."""
MAX_LINE_BYTES = 8 * 2**20
"""One row of a CSV file."""
MAX_CONVERTED_BYTES = 16 * 2**30
"""What is written to disk to be read by row: the numbers and ids of CSV files, unpacked IDX files."""
MAX_DECODED_BYTES = 4 * 2**30
"""Pixels that are kept on disk; of a larger folder every image is decoded each time it is read."""
MAX_IMAGES = 1_000_000
MAX_IMAGE_PIXELS = 2**26
MAX_IMAGE_FILE_BYTES = 64 * 2**20
MAX_IMAGE_DIRECTORY_BYTES = 256 * 2**20
"""Table of contents of an archive of images."""
MAX_OPEN_FILES = 32
"""Files of one data set that are open at a time."""
BLOCK_BYTES = 8 * 2**20
"""Aim for one block of rows that is read at a time."""
CACHE_BYTES = 256 * 2**20
"""Decoded row groups that a Parquet source keeps."""


def too_large(what: str, size: int, limit: int) -> ResourceExhausted:
    """Return the error for data beyond a bound."""
    return ResourceExhausted(
        Reason.UPLOAD_TOO_LARGE, f"{what} is {size:,}, the limit is {limit:,}", metadata={"limit": str(limit)}
    )


def block_rows(row_bytes: int) -> int:
    """Return how many rows to read at once."""
    return max(1, min(65_536, BLOCK_BYTES // max(1, row_bytes)))
