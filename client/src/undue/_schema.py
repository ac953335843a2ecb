"""What callers say of their data: arrays, and which columns of files play which part."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ._errors import invalid
from ._inputs import strings

Columns = str | Sequence[str]
Numbers = float | Iterable[float]


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """A data set in memory: NumPy arrays, torch tensors, data frames, or whatever else `numpy.asarray` takes.

    All have rows along the first axis. Arrays are sent as they are: 64-bit floats stay 64-bit floats.
    """

    inputs: object
    """One array, for a model with one input, or a dict of input name to array."""
    targets: object = None
    """Classes 0, 1, … or numbers; training data needs them, test data may go without."""
    ids: object = None
    """Strings or integers, unique; a row's number without them."""
    weights: object = None
    """Sample weights, not negative; 1 without them."""
    groups: Mapping[str, object] | None = None
    """Name to strings or integers, one a row, by which rows are told apart: sites, sources, dates. No model sees
    them."""

    def named_inputs(self) -> dict[str, object]:
        """Return the arrays by input name; a single one has the empty name."""
        if isinstance(self.inputs, Mapping):
            if not self.inputs:
                raise invalid("inputs", "holds no array")
            return {str(name): value for name, value in self.inputs.items()}
        return {"": self.inputs}

    def named_groups(self) -> dict[str, object]:
        """Return the groups by name."""
        groups = {} if self.groups is None else self.groups
        if not isinstance(groups, Mapping):
            raise invalid("groups", "has no names; write groups={'site': sites}")
        for name in groups:
            if not isinstance(name, str) or not name:
                raise invalid("groups", f"{name!r} is not the name of a group")
        return dict(groups)


@dataclass(frozen=True, slots=True, init=False)
class Input:
    """One input of a model: its columns, and what is done to their values before the model sees them.

    With any of scale, mean, std or row_shape the values become float32, (x · scale − mean) / std; without them they
    stay as the file has them.

        undue.Input("image", row_shape=(1, 28, 28), scale=1 / 255, mean=0.2860, std=0.3530)

    Args:
        columns: one column of any rank, or several scalar ones that are stacked in this order.
        row_shape: shape of one row afterwards, with as many entries; that of the file without it.
        scale: factor; 1 without it.
        mean: one number, or one for each entry of a row's first axis, such as the channels of an image; 0 without it.
        std: as mean; positive; 1 without it.

    Raises:
        InvalidArgument: no column, or numbers that cannot be what they are given as.
    """

    columns: tuple[str, ...]
    row_shape: tuple[int, ...] | None
    scale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def __init__(
        self,
        columns: Columns,
        *,
        row_shape: Iterable[int] | None = None,
        scale: float | None = None,
        mean: Numbers | None = None,
        std: Numbers | None = None,
    ) -> None:
        named = (columns,) if isinstance(columns, str) else strings("input.columns", columns)
        if not named:
            raise invalid("input.columns", "names no column")
        object.__setattr__(self, "columns", named)
        object.__setattr__(self, "row_shape", None if row_shape is None else _shape("input.row_shape", row_shape))
        object.__setattr__(self, "scale", None if scale is None else _number("input.scale", scale))
        object.__setattr__(self, "mean", None if mean is None else _numbers("input.mean", mean))
        object.__setattr__(self, "std", None if std is None else _positive("input.std", std))

    @property
    def is_transformed(self) -> bool:
        """Whether the model sees something else than the file has."""
        return any(part is not None for part in (self.row_shape, self.scale, self.mean, self.std))


@dataclass(frozen=True, slots=True, init=False)
class Schema:
    """Which columns of a file play which part.

        undue.Schema(inputs=["age", "income"], target="default", id="customer", groups=["branch"])

    Args:
        inputs: columns of a model's only input, or a dict of input name to columns; an `undue.Input` instead of columns
            says also what is done to their values. Several scalar columns are stacked in this order; one column may
            have any rank.
        target: column of the targets.
        id: column of the ids.
        weight: column of the sample weights.
        groups: columns of strings or integers by which rows are told apart; no model sees them.

    Raises:
        InvalidArgument: no input column, or names that are no strings.
    """

    inputs: dict[str, Input]
    target: str | None
    id: str | None
    weight: str | None
    groups: tuple[str, ...]

    def __init__(
        self,
        inputs: Columns | Input | Mapping[str, Columns | Input],
        target: str | None = None,
        id: str | None = None,  # noqa: A002 (the field's own word)
        weight: str | None = None,
        groups: Iterable[str] = (),
    ) -> None:
        named = inputs if isinstance(inputs, Mapping) else {"": inputs}
        if not named:
            raise invalid("schema.inputs", "names no input")
        made = {name: _input(name, each) for name, each in named.items()}
        for field, column in (("target", target), ("id", id), ("weight", weight)):
            if column is not None and not isinstance(column, str):
                raise invalid(f"schema.{field}", f"{column!r} is not a column name")
        object.__setattr__(self, "inputs", made)
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "groups", strings("schema.groups", groups))


def image_folder_schema(image: Input | None = None) -> Schema:
    """Return the parts that a folder of images has: the image, its folder's number, its path and its folder's name."""
    return Schema(image or Input("image"), target="label", id="path", groups=["class"])


def _input(name: str, value: Columns | Input) -> Input:
    if isinstance(value, Input):
        return value
    field = f"schema.inputs[{name!r}]" if name else "schema.inputs"
    columns = (value,) if isinstance(value, str) else strings(field, value)
    if not columns:
        raise invalid(field, "names no column")
    return Input(columns)


def _shape(field: str, value: Iterable[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(value)
    except TypeError:
        raise invalid(field, f"{value!r} is not a shape such as (1, 28, 28)") from None
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
            raise invalid(field, f"{sizes!r} is not a shape such as (1, 28, 28)")
    if not sizes:
        raise invalid(field, "is empty; leave it out to keep the shape that the file has")
    return tuple(int(size) for size in sizes)


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise invalid(field, f"{value!r} is not a finite number")
    return float(value)


def _numbers(field: str, value: Numbers) -> tuple[float, ...]:
    if isinstance(value, numbers.Real):
        return (_number(field, value),)
    items = getattr(value, "tolist", lambda: value)()  # the elements of an array or tensor as Python's own
    if isinstance(items, str) or not isinstance(items, Iterable):
        return (_number(field, items),)
    found = tuple(_number(field, item) for item in items)
    if not found:
        raise invalid(field, "is empty; leave it out, or give a number for each channel")
    return found


def _positive(field: str, value: Numbers) -> tuple[float, ...]:
    found = _numbers(field, value)
    if min(found) <= 0:
        raise invalid(field, f"{value!r} is not positive; a channel that never varies has std 1")
    return found
