"""What callers hand in: objectives, numbers and names, checked before anything is sent."""

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ._errors import invalid

ObjectiveName = Literal["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]
Measurement = Literal["loss", "logit", "margin"]
Aggregate = Literal["mean"]
Normalization = Literal["theta", "loss"]


@dataclass(frozen=True, slots=True, init=False)
class Objective:
    """What a model's weights minimise: R(θ) = (1/n) Σ w_i ℓ_i(θ) + l2/2 · ‖θ‖² over the parameters not excluded.

    Args:
        name: ℓ: "cross_entropy" (−log softmax(f)_y; targets are classes 0, 1, …), "binary_logistic"
            (log(1 + exp(−s·f)), s = ±1; targets are 0 and 1), "squared_error" (½‖f − y‖²) or "smooth_hinge"
            (t·log(1 + exp((1 − s·f)/t)), s = ±1; targets are 0 and 1).
        l2: strength of the L2 term, as in R above. SGD's "weight decay" is this number; scikit-learn's C is 1/(n·l2).
        l2_exclude: fnmatch patterns of parameters that the L2 term leaves out.
        temperature: t of "smooth_hinge", more than 0; None for every other loss. A model that was trained with the
            hinge itself, t = 0, takes the surrogate's influence at a small t, 0.001 to 0.1.

    Raises:
        InvalidArgument: an unknown name, a negative or infinite strength, patterns that are no list of strings, or a
            temperature where there is none to give or none where there has to be one.
    """

    name: ObjectiveName
    l2: float
    l2_exclude: tuple[str, ...]
    temperature: float | None

    def __init__(
        self,
        name: ObjectiveName,
        l2: float = 0.0,
        l2_exclude: Iterable[str] = (),
        temperature: float | None = None,
    ) -> None:
        allowed = get_args(ObjectiveName)
        if name not in allowed:
            raise invalid("objective", f"{name!r} is not one of {', '.join(allowed)}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "l2", non_negative("objective.l2", l2))
        object.__setattr__(self, "l2_exclude", strings("objective.l2_exclude", l2_exclude))
        object.__setattr__(self, "temperature", _temperature(name, temperature))


def _temperature(name: str, value: object) -> float | None:
    if name != "smooth_hinge":
        if value is not None:
            raise invalid("objective.temperature", f"{name} has no temperature: leave it out")
        return None
    if value is None or not non_negative("objective.temperature", value):
        raise invalid(
            "objective.temperature",
            "smooth_hinge needs one > 0; for a model that was trained with the hinge itself, 0.001 to 0.1",
        )
    return non_negative("objective.temperature", value)


def strings(field: str, value: Iterable[str]) -> tuple[str, ...]:
    """Return a list of strings as a tuple.

    Raises:
        InvalidArgument: it is one string, no list, or holds something else.
    """
    if isinstance(value, str):
        raise invalid(field, f"is one string; write [{value!r}]")
    if not isinstance(value, Iterable):
        raise invalid(field, f"{value!r} is not a list of strings")
    items = tuple(value)
    for item in items:
        if not isinstance(item, str):
            raise invalid(field, f"{item!r} is not a string")
    return items


def name_or_none(field: str, value: object) -> str:
    """Return a name, empty where it is left out.

    Raises:
        InvalidArgument: it is no string.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(field, f"{value!r} is not a string")
    return value


def flag(field: str, value: object) -> bool:
    """Return a truth value.

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(value, bool):
        raise invalid(field, f"{value!r} is neither True nor False")
    return value


def flag_or_none(field: str, value: object) -> bool | None:
    """Return a truth value, or None where it is left out.

    Raises:
        InvalidArgument: it is something else.
    """
    return None if value is None else flag(field, value)


def non_negative(field: str, value: object) -> float:
    """Return a finite number that is not negative.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value < 0:
        raise invalid(field, f"{value!r} is not a finite number of at least 0")
    return float(value)


def relative(field: str, value: object) -> float:
    """Return a number between 0 and 1.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < 1:
        raise invalid(field, f"{value!r} is not a number between 0 and 1")
    return float(value)


def positive(field: str, value: object) -> int:
    """Return a positive integer.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= int(value) <= 2**31 - 1:
        raise invalid(field, f"{value!r} is not a positive integer")
    return int(value)


def seed_number(field: str, value: object) -> int:
    """Return an integer of at least 0.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < 2**63:
        raise invalid(field, f"{value!r} is not an integer of at least 0")
    return int(value)


def count(field: str, value: object) -> int:
    """Return how many there are, as an integer of at least 0.

    Raises:
        InvalidArgument: it is something else.
    """
    found = seed_number(field, value)
    if found >= 2**31:
        raise invalid(field, f"{value!r} is more than there can be")
    return found


def row_numbers(
    field: str, value: Iterable[Any], *, empty: str = "is empty; leave it out to mean every row"
) -> list[int]:
    """Return row numbers as plain integers.

    Args:
        field: the argument's name.
        value: what was given.
        empty: what is said where there are none.

    Raises:
        InvalidArgument: there are none, or something is not a row number.
    """
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise invalid(field, f"{value!r} is not a list of row numbers: write [{value!r}]")
    rows = list(value)
    if not rows:
        raise invalid(field, empty)
    for row in rows:
        if isinstance(row, bool) or type(row).__name__ in ("bool_", "bool"):
            raise invalid(field, "is a mask; send numbers: numpy.flatnonzero(mask)")
        if not isinstance(row, numbers.Integral) or int(row) < 0:
            raise invalid(field, f"{row!r} is not a row number; rows count from 0")
        if int(row) >= 2**63:
            raise invalid(field, f"{row!r} is no row number that a data set could have")
    return [int(row) for row in rows]


def row_sets(field: str, value: Iterable[Iterable[Any]]) -> list[list[int]]:
    """Return sets of row numbers as plain integers.

    Raises:
        InvalidArgument: there are none, one is empty or names a row twice, or they are no sets of row numbers.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise invalid(field, f"{value!r} is not a list of sets of rows: write [[3], [5, 8]]")
    sets = list(value)
    if not sets:
        raise invalid(field, "is empty; name the rows of each set: [[3], [5, 8]]")
    if all(isinstance(each, numbers.Integral) for each in sets):
        raise invalid(field, "is a flat list of rows; to remove each by itself write [[i] for i in rows], all [rows]")
    found = []
    for place, each in enumerate(sets):
        where = f"{field}[{place}]"
        if isinstance(each, str) or not isinstance(each, Iterable):
            raise invalid(where, f"{each!r} is not a set of row numbers")
        rows = list(each)
        if not rows:
            raise invalid(where, "names no row")
        found.append(row_numbers(where, rows))
        if len(set(found[-1])) < len(rows):
            raise invalid(where, "names a row twice")
    return found


def row_count(field: str, value: object) -> int | None:
    """Return how many rows to keep; None for all.

    Raises:
        InvalidArgument: it is not a positive integer.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= int(value) <= 2**31 - 1:
        raise invalid(field, f"{value!r} is not a positive number of rows; None keeps all")
    return int(value)


def resource_name(field: str, collection: str, value: object) -> str:
    """Return the resource name of an object of the SDK or of a string; a bare id is of the given collection.

    Raises:
        InvalidArgument: it is neither, or names another kind of resource.
    """
    name = value if isinstance(value, str) else getattr(value, "name", None)
    if not isinstance(name, str) or not name:
        raise invalid(field, f"{value!r} is neither a name such as '{collection}/…' nor what register returned")
    if "/" not in name:
        return f"{collection}/{name}"
    if not name.startswith(f"{collection}/"):
        raise invalid(field, f"{name!r} does not start with '{collection}/'")
    return name


def index_name(field: str, value: object) -> str:
    """Return the name of an index or an alias, from an object of the SDK or a string; a bare word is an alias.

    Raises:
        InvalidArgument: it is neither, or names another kind of resource.
    """
    name = value if isinstance(value, str) else getattr(value, "name", None)
    if not isinstance(name, str) or not name:
        raise invalid(field, f"{value!r} is neither an index, nor a name: 'indexes/…', 'aliases/…' or a bare alias")
    if "/" not in name:
        return f"aliases/{name}"
    if not name.startswith(("indexes/", "aliases/")):
        raise invalid(field, f"{name!r} starts neither with 'indexes/' nor with 'aliases/'")
    return name
