"""The errors that all formats share."""

from collections.abc import Iterable, Mapping

from undue_service.domain.errors import InvalidArgument, Reason

from .limits import MAX_GROUP_VALUES

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


def bad_input(name: str, problem: str) -> InvalidArgument:
    """Return the error for an input, however many columns it is made of."""
    return InvalidArgument(
        Reason.DATASET_MALFORMED, f"input {quoted(name)} {problem}", metadata={"input": name[:_MAX_QUOTED]}
    )


def bad_file(name: str, problem: str) -> InvalidArgument:
    """Return the error for one file of a data set; `problem` is what the file is or does."""
    metadata = {"file": name[:_MAX_QUOTED]}
    return InvalidArgument(Reason.DATASET_MALFORMED, f"file {quoted(name)} {problem}", metadata=metadata)


def bad_value(column: str, row: int, problem: str) -> InvalidArgument:
    """Return the error for the first row of a column that is wrong."""
    message = f"column {quoted(column)}, row {row}: {problem}"
    metadata = {"column": column[:_MAX_QUOTED], "row": str(row)}
    return InvalidArgument(Reason.DATASET_MALFORMED, message, metadata=metadata)


def too_many_groups(column: str) -> InvalidArgument:
    """Return the error for a column of groups with more values than are counted."""
    text = f"has more than {MAX_GROUP_VALUES:,} different values; a group is many rows"
    return bad_column(column, f"{text}: bin the values, or use the column as the id")


def columns_not_found(missing: Iterable[str], existing: Iterable[str], file: str | None = None) -> InvalidArgument:
    """Return the error that names every missing column at once, and those that exist."""
    names = sorted(set(missing))
    known = sorted(set(existing))
    listed = ", ".join(map(quoted, known[:_MAX_LISTED])) or "none"
    more = f" and {len(known) - _MAX_LISTED:,} more" if len(known) > _MAX_LISTED else ""
    which = "the file" if file is None else f"file {quoted(file)}"
    text = f"{which} has no column {', '.join(map(quoted, names[:_MAX_LISTED]))}; it has {listed}{more}"
    return InvalidArgument(Reason.COLUMN_NOT_FOUND, text, metadata={"columns": ",".join(names[:_MAX_LISTED])})


def in_file(error: InvalidArgument, name: str, first_row: int) -> InvalidArgument:
    """Return an error with the file, one of several, in which it was met."""
    text = f"{error.message} (in file {quoted(name)}, which begins with row {first_row:,})"
    return InvalidArgument(error.reason, text, metadata=error.metadata | {"file": name[:_MAX_QUOTED]})


def rows_mismatch(lengths: Mapping[str, int]) -> InvalidArgument:
    """Return the error for columns of different lengths."""
    first, *others = lengths.items()
    name, rows = next((name, rows) for name, rows in others if rows != first[1])
    text = f"column {quoted(first[0])} has {first[1]:,} rows and {quoted(name)} has {rows:,}; they must be equal"
    return InvalidArgument(Reason.ROWS_MISMATCH, text, metadata={"column": name[:_MAX_QUOTED]})
