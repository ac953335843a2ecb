"""Holds a program against another implementation of the same file."""

import numpy as np

from undue_service.domain.errors import FailedPrecondition, Reason

from .opened import Arrays, OpenedModel, Parting
from .refusals import quoted
from .running import conform, predict

_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
_ROWS_AROUND = 3
"""On either side of the row that differs, where that row alone does not."""


def parity(opened: OpenedModel, inputs: Arrays) -> float:
    """Return how far onnxruntime and the program are apart on some rows.

    The number is max |r − p| / max(1, ‖r‖∞) over all elements of all outputs, r from onnxruntime, p from the program,
    and ‖r‖∞ over the element's row of the output: absolute where the row stays below 1, relative above. An element
    that is small beside the others of its row has cancelled out of numbers of their size, and so has its rounding.

    Raises:
        FailedPrecondition: PARITY_FAILED, an output differs by more than 1e-4 (float32) or 1e-9 (float64), or is NaN;
            or the model has no reference.
        InvalidArgument: INPUT_MISMATCH; MODEL_UNSUPPORTED where onnxruntime cannot run the file.
    """
    if opened.reference is None:
        raise FailedPrecondition(Reason.PARITY_FAILED, "no other implementation reads this format to compare with")
    given = conform(opened.inputs, inputs)
    expected, actual = opened.reference(given), predict(opened, given)
    try:
        return max((_difference(name, expected[name], actual[name]) for name in opened.outputs), default=0.0)
    except _Apart as apart:
        raise apart.located(opened, given) from None


class _Apart(Exception):
    """An output that differs."""

    def __init__(self, output: str, what: str, row: int, tolerance: float) -> None:
        super().__init__(what)
        self._output = output
        self._what = what
        self._row = row
        self._tolerance = tolerance

    def located(self, opened: OpenedModel, given: Arrays) -> FailedPrecondition:
        """Return the error that names the output, and the first tensor of the file that differs."""
        metadata = {"output": self._output}
        where = ""
        parting = self._first(opened, given)
        if parting is not None:
            metadata |= {"tensor": parting.tensor, "operator": parting.operator}
            where = (
                f"; they part at the tensor {quoted(parting.tensor)}, which {parting.operator} computes: "
                f"{parting.expected} by onnxruntime and {parting.actual} by the program"
            )
        text = (
            f"the output {quoted(self._output)} {self._what}{where}; this importer reads the model wrongly, please "
            "report it with the file"
        )
        return FailedPrecondition(Reason.PARITY_FAILED, text, metadata=metadata)

    def _first(self, opened: OpenedModel, given: Arrays) -> Parting | None:
        """Look on the row itself, then on some rows around it."""
        if opened.locate is None:
            return None
        for around in (0, _ROWS_AROUND):
            rows = slice(max(0, self._row - around), self._row + around + 1)
            found = opened.locate({name: array[rows] for name, array in given.items()}, self._tolerance)
            if found is not None:
                return found
        return None


def _difference(name: str, expected: np.ndarray, actual: np.ndarray) -> float:
    tolerance = _TOLERANCE[expected.dtype.name]
    if expected.shape != actual.shape:
        what = f"has the shape {expected.shape} by onnxruntime and {actual.shape} by the program"
        raise _Apart(name, what, 0, tolerance)
    if not expected.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        sizes = np.nanmax(np.abs(expected), axis=tuple(range(1, expected.ndim)), keepdims=True, initial=1.0)
        apart = np.where(expected == actual, 0.0, np.abs(expected - actual) / np.where(np.isinf(sizes), 1.0, sizes))
    worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
    if not apart.flat[worst] <= tolerance:
        row = int(np.unravel_index(worst, expected.shape)[0])
        theirs, ours = expected.flat[worst], actual.flat[worst]
        raise _Apart(name, f"is {theirs} in row {row} by onnxruntime and {ours} by the program", row, tolerance)
    return float(apart.flat[worst])
