"""Edits of training rows on the command line."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def edits(parser: argparse.ArgumentParser) -> None:
    """Add what is different about training rows in one further fit."""
    file = (
        "an .npz of `rows` and, by name, an array of inputs with a row for each; one fit with --relabel and --reweight"
    )
    parser.add_argument("--replace", type=_replacing, metavar="FILE", help=file)
    targets = "new target of a training row, or several"
    parser.add_argument("--relabel", nargs="+", type=_target, action=_ByRow, metavar="ROW=TARGET", help=targets)
    weights = "new weight of a training row, or several"
    parser.add_argument("--reweight", nargs="+", type=_weight, action=_ByRow, metavar="ROW=WEIGHT", help=weights)


class _ByRow(argparse.Action):
    """Pairs of a row and what is new of it, as a mapping; given again, it goes on."""

    def __call__(self, _: object, space: argparse.Namespace, values: Any, *__: object) -> None:
        """Join them."""
        found = dict(getattr(space, self.dest) or {})
        for row, value in values:
            if row in found:
                raise argparse.ArgumentError(self, f"row {row} is named twice")
            found[row] = value
        setattr(space, self.dest, found)


def _target(text: str) -> tuple[int, int | float | list[float]]:
    row, value = _pair(text)
    try:
        numbers = [float(part) for part in value.split(",")]
        return row, int(value) if value.lstrip("-").isdigit() else numbers[0] if len(numbers) == 1 else numbers
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} has no number after '='") from None


def _weight(text: str) -> tuple[int, float]:
    row, value = _pair(text)
    try:
        return row, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} has no number after '='") from None


def _pair(text: str) -> tuple[int, str]:
    row, sign, value = text.partition("=")
    if not sign or not row.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a row and what is new of it, such as 3=1")
    return int(row), value


def _replacing(text: str) -> dict[int, dict[str, Any]]:
    try:
        with np.load(Path(text), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read as .npz: {error}") from None
    rows = arrays.pop("rows", None)
    if rows is None or rows.ndim != 1 or rows.dtype.kind not in "iu" or not arrays:
        raise argparse.ArgumentTypeError(f"{text} needs `rows`, integers along one axis, and an array for each input")
    if len(set(rows.tolist())) < len(rows):
        raise argparse.ArgumentTypeError(f"{text} names a row twice")
    if any(array.ndim == 0 or len(array) != len(rows) for array in arrays.values()):
        raise argparse.ArgumentTypeError(f"{text} needs a row of every input for each of `rows`")
    return _by_row(rows.tolist(), arrays)


def _by_row(rows: Sequence[int], arrays: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {row: {name: array[place] for name, array in arrays.items()} for place, row in enumerate(rows)}
