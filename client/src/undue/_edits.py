"""What is to be different about training rows, and its message. Pure."""

import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._errors import invalid
from ._inputs import row_numbers
from ._tensors import as_array, encode
from .v1 import edits_pb2, tensors_pb2


@dataclass(frozen=True)
class Edit:
    """One counterfactual of `client.retrain`: rows left out, and others with new inputs, targets or weights.

    The number of rows that the objective is divided by stays. A row that is left out is not named otherwise; any other
    may have several things that are different.
    """

    without: Iterable[int] = ()
    """Rows that are left out."""
    replace: Mapping[int, Any] = field(default_factory=dict)
    """Row to its new input, an array without an axis of rows, or {input name: array}: as the model sees it."""
    relabel: Mapping[int, Any] = field(default_factory=dict)
    """Row to its new target: a label, a number, or several numbers."""
    reweight: Mapping[int, float] = field(default_factory=dict)
    """Row to its new weight, ≥ 0, in place of the registered one, which is 1 where the data set has no weights."""


def edit_message(where: str, edit: object) -> edits_pb2.Edit:
    """Return the message of an edit.

    Raises:
        InvalidArgument: it names no row, one twice or both left out and changed, or values are no numbers.
    """
    if not isinstance(edit, Edit):
        raise invalid(where, f"{edit!r} is not an undue.Edit")
    rows = {
        name: _rows(f"{where}.{name}", getattr(edit, name)) for name in ("without", "replace", "relabel", "reweight")
    }
    if not any(rows.values()):
        raise invalid(where, "names no row")
    gone = set(rows["without"])
    if len(gone) < len(rows["without"]):
        raise invalid(f"{where}.without", "names a row twice")
    for name in ("replace", "relabel", "reweight"):
        both = next((row for row in rows[name] if row in gone), None)
        if both is not None:
            raise invalid(f"{where}.{name}", f"row {both} is in without, too: it is left out, or it is different")
    message = edits_pb2.Edit(
        without=rows["without"],
        replaced=rows["replace"],
        relabelled=rows["relabel"],
        reweighted=rows["reweight"],
        weights=[_weight(f"{where}.reweight", value) for value in edit.reweight.values()],
    )
    for name, value in _inputs(f"{where}.replace", edit.replace).items():
        message.inputs[name].CopyFrom(value)
    if edit.relabel:
        message.targets.CopyFrom(_tensor(f"{where}.relabel", list(edit.relabel.values())))
    return message


def _rows(where: str, value: Any) -> list[int]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise invalid(where, f"{value!r} holds no row numbers")
    if not where.endswith("without") and not isinstance(value, Mapping):
        raise invalid(where, "must map a row to what is different about it: {3: …}")
    return row_numbers(where, list(value)) if (value := list(value)) else []


def _weight(where: str, value: Any) -> float:
    number = float(value) if isinstance(value, numbers.Real) else math.nan
    if not (math.isfinite(number) and number >= 0):
        raise invalid(where, f"{value!r} is not a weight: a number that is finite and ≥ 0")
    return number


def _inputs(where: str, replace: Mapping[int, Any]) -> dict[str, tensors_pb2.Tensor]:
    named = [value if isinstance(value, Mapping) else {"": value} for value in replace.values()]
    if not named:
        return {}
    if any(set(value) != set(named[0]) for value in named):
        raise invalid(where, "its rows have different inputs: give each of them all inputs of the model")
    return {name: _tensor(where, [value[name] for value in named]) for name in named[0]}


def _tensor(where: str, values: list[Any]) -> tensors_pb2.Tensor:
    arrays = [as_array(where, value) for value in values]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise invalid(where, f"its rows have different shapes: {sorted({array.shape for array in arrays})}")
    found = encode(where, np.stack(arrays))
    return tensors_pb2.Tensor(dtype=found.dtype, shape=found.shape, data=bytes(found.content))
