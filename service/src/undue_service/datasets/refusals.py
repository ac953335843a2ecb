"""The errors that all formats share."""

from collections.abc import Iterable, Mapping

from undue_service.domain.errors import InvalidArgument, Reason

_MAX_QUOTED = 200
_MAX_LISTED = 50


def quoted(text: object) -> str:
    """Return untrusted text in quotes, cut to a length that an error message can carry."""
    plain = str(text)
    return repr(plain if len(plain) <= _MAX_QUOTED else plain[:_MAX_QUOTED] + "…")


def malformed(message: str) -> InvalidArgument:
    """Return the error for a file that is damaged or not of a kind that is read."""
    return InvalidArgument(Reason.DATASET_MALFORMED, message)


def bad_column(column: str, problem: str) -> InvalidArgument:
    """Return the error for a column that is damaged or does not fit; `problem` is what the column is or does."""
    message = f"column {quoted(column)} {problem}"
    return InvalidArgument(Reason.DATASET_MALFORMED, message, metadata={"column": column[:_MAX_QUOTED]})


def bad_value(column: str, row: int, problem: str) -> InvalidArgument:
    """Return the error for the first row of a column that is wrong."""
    message = f"column {quoted(column)}, row {row}: {problem}"
    metadata = {"column": column[:_MAX_QUOTED], "row": str(row)}
    return InvalidArgument(Reason.DATASET_MALFORMED, message, metadata=metadata)


def columns_not_found(missing: Iterable[str], existing: Iterable[str]) -> InvalidArgument:
    """Return the error that names every missing column at once, and those that exist."""
    names = sorted(set(missing))
    known = sorted(set(existing))
    listed = ", ".join(map(quoted, known[:_MAX_LISTED])) or "none"
    more = f" and {len(known) - _MAX_LISTED:,} more" if len(known) > _MAX_LISTED else ""
    text = f"the file has no column {', '.join(map(quoted, names[:_MAX_LISTED]))}; it has {listed}{more}"
    return InvalidArgument(Reason.COLUMN_NOT_FOUND, text, metadata={"columns": ",".join(names[:_MAX_LISTED])})


def rows_mismatch(lengths: Mapping[str, int]) -> InvalidArgument:
    """Return the error for columns of different lengths."""
    first, *others = lengths.items()
    name, rows = next((name, rows) for name, rows in others if rows != first[1])
    text = f"column {quoted(first[0])} has {first[1]:,} rows and {quoted(name)} has {rows:,}; they must be equal"
    return InvalidArgument(Reason.ROWS_MISMATCH, text, metadata={"column": name[:_MAX_QUOTED]})
