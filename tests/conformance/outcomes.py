"""Runs one case of the suite through the importer and says how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from undue_service.domain.errors import Error
from undue_service.models.onnx.graphs import from_arrays, read_graph, to_arrays

from .cases import Case


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    status: Literal["passed", "refused", "wrong", "broken"]
    """Refused: by a typed error. Wrong: other numbers, types or shapes than expected. Broken: any other exception."""
    says: str = ""


def attempt(case: Case) -> Outcome:
    """Import the case's model, run it on the case's inputs and compare all outputs."""
    try:
        module = read_graph(case.model).eval()
        for inputs, expected in case.data_sets:
            with torch.no_grad():
                actual = to_arrays(module.run(*from_arrays(case.model.graph, inputs)))
            difference = compare(expected, actual, case.rtol, case.atol)
            if difference:
                return Outcome("wrong", difference)
    except Error as error:
        return Outcome("refused", error.message)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
        return Outcome("broken", f"{type(error).__name__}: {error}")
    return Outcome("passed")


def compare(expected: Sequence[Any], actual: Sequence[Any], rtol: float, atol: float, place: str = "output") -> str:
    """Return how the actual values first differ from the expected ones, "" where they do not.

    Types and shapes count. bfloat16 has eight bits: its relative tolerance is at least two units in the last place, as
    in the suite's own runner.
    """
    if len(expected) != len(actual):
        return f"{place}: {len(actual)} values instead of {len(expected)}"
    for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
        found = _differ(want, got, rtol, atol, f"{place} {index}")
        if found:
            return found
    return ""


def _differ(want: Any, got: Any, rtol: float, atol: float, place: str) -> str:
    if want is None or got is None:
        return "" if want is got else f"{place}: {got!r} instead of {want!r}"
    if isinstance(want, list) or isinstance(got, list):
        same = isinstance(want, list) and isinstance(got, list)
        return compare(want, got, rtol, atol, place) if same else f"{place}: one of the two is a sequence"
    if (want.dtype, want.shape) != (got.dtype, got.shape):
        return f"{place}: {got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind in "OUSb":
        return "" if np.array_equal(want, got) else f"{place}: other elements"
    if want.dtype.name == "bfloat16":
        rtol = max(rtol, 2.0**-6)
    kind = np.complex128 if want.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        close = np.isclose(got.astype(kind), want.astype(kind), rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return ""
    worst = np.unravel_index(int(np.argmin(close)), close.shape)
    return f"{place}: {got[worst]} instead of {want[worst]} at {tuple(map(int, worst))}"
