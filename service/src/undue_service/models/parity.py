"""Holds a program against another implementation of the same file."""

import numpy as np

from undue_service.domain.errors import FailedPrecondition, Reason

from .opened import Arrays, OpenedModel
from .refusals import quoted
from .running import conform, predict

_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def parity(opened: OpenedModel, inputs: Arrays) -> float:
    """Return how far onnxruntime and the program are apart on some rows.

    The number is max |r − p| / max(1, |r|) over all elements of all outputs, r from onnxruntime and p from the program:
    absolute where the output is below 1, relative above.

    Raises:
        FailedPrecondition: PARITY_FAILED, an output differs by more than 1e-4 (float32) or 1e-9 (float64), or is NaN;
            or the model has no reference.
        InvalidArgument: INPUT_MISMATCH; MODEL_UNSUPPORTED where onnxruntime cannot run the file.
    """
    if opened.reference is None:
        raise FailedPrecondition(Reason.PARITY_FAILED, "no other implementation reads this format to compare with")
    given = conform(opened.inputs, inputs)
    expected, actual = opened.reference(given), predict(opened, given)
    return max((_difference(name, expected[name], actual[name]) for name in opened.outputs), default=0.0)


def _difference(name: str, expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape:
        raise _failed(name, f"has the shape {expected.shape} by onnxruntime and {actual.shape} by the program")
    if not expected.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.where(expected == actual, 0.0, np.abs(expected - actual) / np.maximum(1.0, np.abs(expected)))
    worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
    if not apart.flat[worst] <= _TOLERANCE[expected.dtype.name]:
        row = np.unravel_index(worst, expected.shape)[0]
        theirs, ours = expected.flat[worst], actual.flat[worst]
        raise _failed(name, f"is {theirs} in row {row} by onnxruntime and {ours} by the program")
    return float(apart.flat[worst])


def _failed(name: str, what: str) -> FailedPrecondition:
    text = f"the output {quoted(name)} {what}; this importer reads the model wrongly, please report it with the file"
    return FailedPrecondition(Reason.PARITY_FAILED, text, metadata={"output": name})
