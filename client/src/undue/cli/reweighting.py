"""Groups of training rows and the factors of their weights, as a shell writes them."""

from undue._errors import invalid


def reweighted(given: list[str], columns: list[str]) -> dict[tuple[str, str], list[float]]:
    """Return the factors of each group.

    Raises:
        InvalidArgument: something is not of the form GROUP=FACTOR.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for text in given:
        named, equals, factor = text.rpartition("=")
        column, colon, group = named.partition(":")
        if not colon or column not in columns:
            if len(columns) > 1:
                raise invalid("reweight", f"{text!r} names none of the columns: write COLUMN:GROUP=FACTOR")
            column, group = columns[0], named
        try:
            number = float(factor)
        except ValueError:
            number = -1.0
        if not equals or number < 0:
            raise invalid("reweight", f"{text!r} is not GROUP=FACTOR with a factor of at least 0")
        found.setdefault((column, group), []).append(number)
    return found
