"""Result files of perturb jobs: safetensors, written by a runner and read by the API process.

perturbations: of K attacks `iterations`, `test_loss` (K,), and flattened, those of attack k from offset k to k + 1 of
`….offsets` (K + 1,): `target.row`, `target.already_wrong`, `target.flipped`, `target.confirmed`,
`target.control_flipped`, with 1 for yes, 0 for no and −1 where it was not tried; `row.row`, `row.linf`, `row.l2`;
`costs.value`; `control_costs.value`.
poisoned: of K attacks `row.offsets` (K + 1,), flattened like these `row` (R,) and `values` (R, …), and `input`, one
string.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from undue_service.domain.perturb_jobs import AttackedRow, Perturbation, PerturbedRow, PoisonedRow

from .examples import Array, Page, decode_texts, encode_texts, fitting
from .results import write

PERTURBATIONS, POISONED = "perturbations", "poisoned"
"""Roles."""

_FIELDS = {
    "target": ("row", "already_wrong", "flipped", "confirmed", "control_flipped"),
    "row": ("row", "linf", "l2"),
    "costs": ("value",),
    "control_costs": ("value",),
}
_BYTES = {"target": 24, "row": 32, "costs": 8, "control_costs": 8}
"""Most of each in a message."""
_ATTACK_BYTES = 64


def write_perturbations(path: Path, attacks: Sequence[Perturbation]) -> None:
    """Write what each attack did.

    Raises:
        OSError: the disk is full, or another failure of the file system.
    """
    arrays: dict[str, Array] = {
        "iterations": np.array([one.iterations for one in attacks], np.int64),
        "test_loss": np.array([one.test_loss for one in attacks], np.float64),
    }
    for name, items in (("target", "targets"), ("row", "rows")):
        listed = [getattr(one, items) for one in attacks]
        arrays[f"{name}.offsets"] = _offsets(listed)
        for field in _FIELDS[name]:
            arrays[f"{name}.{field}"] = _column(field, [getattr(item, field) for item in chain.from_iterable(listed)])
    for name in ("costs", "control_costs"):
        listed = [getattr(one, name) for one in attacks]
        values = np.array([*chain.from_iterable(listed)], np.float64)
        arrays |= {f"{name}.offsets": _offsets(listed), f"{name}.value": values}
    write(path, arrays)


def write_poisoned(path: Path, name: str, attacks: Sequence[Sequence[int]], values: Array) -> None:
    """Write the rows that attacks poisoned.

    Args:
        path: of the file.
        name: of the input that they perturbed.
        attacks: the training rows of each.
        values: (R, …) theirs, attack by attack.

    Raises:
        OSError: the disk is full, or another failure of the file system.
    """
    rows = np.array([*chain.from_iterable(attacks)], np.int64)
    write(path, {"row.offsets": _offsets(attacks), "row": rows, "values": values, "input": encode_texts([name])})


class SafetensorsPerturbations:
    """PerturbationReader over these files."""

    def perturbations(self, path: Path, start: int, count: int) -> Page[Perturbation]:
        """See PerturbationReader."""
        with safe_open(path, framework="numpy") as file:
            [k] = file.get_slice("iterations").get_shape()
            here = range(start, max(start, min(start + count, k)))
            if not here:
                return (), None
            offsets = {name: file.get_tensor(f"{name}.offsets") for name in _FIELDS}
            sizes = [_BYTES[name] * np.diff(offsets[name][here.start : here.stop + 1]) for name in _FIELDS]
            here = here[: fitting(sum(sizes) + _ATTACK_BYTES)]
            parts = {name: _Part(file, name, offsets[name], here) for name in _FIELDS}
            at = slice(here.start, here.stop)
            numbers = [file.get_slice(name)[at].tolist() for name in ("iterations", "test_loss")]
        found = tuple(
            Perturbation(
                index=index,
                targets=tuple(
                    AttackedRow(row, bool(wrong), bool(flipped), _tried(confirmed), _tried(control))
                    for row, wrong, flipped, confirmed, control in parts["target"].of(index)
                ),
                rows=tuple(PerturbedRow(*each) for each in parts["row"].of(index)),
                iterations=iterations,
                costs=tuple(value for [value] in parts["costs"].of(index)),
                control_costs=tuple(value for [value] in parts["control_costs"].of(index)),
                test_loss=test_loss,
            )
            for index, iterations, test_loss in zip(here, *numbers, strict=True)
        )
        return found, here.stop if here.stop < k else None

    def attacks(self, path: Path) -> int:
        """See PerturbationReader."""
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice("row.offsets").get_shape()[0]) - 1

    def poisoned(self, path: Path, attacks: Iterable[int]) -> Iterator[PoisonedRow]:
        """See PerturbationReader."""
        with safe_open(path, framework="numpy") as file:
            offsets, rows = file.get_tensor("row.offsets"), file.get_tensor("row")
            [name] = decode_texts(file.get_tensor("input"))
            values = file.get_slice("values")
            for attack in attacks:
                for place in range(int(offsets[attack]), int(offsets[attack + 1])):
                    yield PoisonedRow(attack, int(rows[place]), name, values[place : place + 1][0])


class _Part:
    """What belongs to some consecutive attacks, of one of the flattened lists."""

    def __init__(self, file: Any, name: str, offsets: Array, attacks: range) -> None:
        bounds = slice(int(offsets[attacks.start]), int(offsets[attacks.stop]))
        # Of an empty list nothing can be sliced, not even nothing.
        columns = [
            file.get_slice(f"{name}.{field}")[bounds].tolist() if bounds.start < bounds.stop else []
            for field in _FIELDS[name]
        ]
        self._items = list(zip(*columns, strict=True))
        self._places = (offsets - bounds.start).tolist()

    def of(self, attack: int) -> list[tuple[Any, ...]]:
        """Return the items of one attack, a number for each field."""
        return self._items[self._places[attack] : self._places[attack + 1]]


def _tried(number: int) -> bool | None:
    return None if number < 0 else bool(number)


def _offsets(listed: Sequence[Sequence[Any]]) -> Array:
    return np.cumsum([0, *map(len, listed)], dtype=np.int64)


def _column(name: str, values: Sequence[Any]) -> Array:
    if name == "row":
        return np.array(values, np.int64)
    if name in ("linf", "l2"):
        return np.array(values, np.float64)
    return np.array([-1 if value is None else value for value in values], np.int8)
