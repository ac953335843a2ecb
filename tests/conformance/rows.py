"""The same cases through the door that models come in by: with an open number of rows, exported by torch.

What is a float input of a case becomes rows, the other inputs become initialisers, as weights and shapes are in a real
file. Most operators of the suite's cases mix rows or name their number, and must be refused. One that is opened must
give the case's outputs, the first row's output from the first row alone, and all outputs twice from all rows twice.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from undue_service.domain.errors import Error
from undue_service.models.onnx.importing import open_onnx
from undue_service.models.running import predict

from .cases import Case
from .outcomes import Outcome, compare

_FLOATS = (np.float32, np.float64)
_CAUGHT = ("the model's shapes or types do not fit together", "the model cannot be run on")


def attempt_rows(case: Case, folder: Path) -> Outcome | None:
    """Open a case with an open number of rows; None where it has nothing that could be rows.

    Where tracing the model or running it on shapes raised something else than a typed error, that is counted as broken.
    """
    refusal = None
    inputs, expected = case.data_sets[0]
    named = _named(case.model, inputs)
    for rows in _choices(named, expected):
        path = folder / "model.onnx"
        path.write_bytes(_opened(case.model, named, rows, expected).SerializeToString())
        try:
            return _run(case, path, {name: named[name] for name in rows}, expected)
        except Error as error:
            status = "broken" if error.message.startswith(_CAUGHT) else "refused"
            refusal = refusal or Outcome(status, f"{error.reason.value}: {error.message}")
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            return Outcome("broken", f"{type(error).__name__}: {error}")
    return refusal


def _named(model: onnx.ModelProto, inputs: tuple) -> dict[str, np.ndarray]:
    held = {tensor.name for tensor in model.graph.initializer}
    return dict(zip((value.name for value in model.graph.input if value.name not in held), inputs, strict=True))


def _choices(named: dict, expected: tuple) -> Iterator[list[str]]:
    """Yield what may be rows: all float inputs with as many of them as the first, then the first alone."""
    arrays = [value for value in (*named.values(), *expected) if not isinstance(value, np.ndarray)]
    if arrays or any(value.dtype.kind in "OUS" or value.dtype.type.__module__ != "numpy" for value in named.values()):
        return
    floats = [name for name, value in named.items() if value.dtype in _FLOATS and value.ndim and value.size]
    if not floats or not any(value.dtype in _FLOATS for value in expected):
        return
    if not all(np.isfinite(value).all() for value in named.values() if value.dtype.kind == "f"):
        return
    alike = [name for name in floats if len(named[name]) == len(named[floats[0]])]
    yield alike
    if alike != floats[:1]:
        yield floats[:1]


def _opened(model: onnx.ModelProto, named: dict[str, np.ndarray], rows: list[str], expected: tuple) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.ir_version = max(changed.ir_version, 4)  # before it, initialisers were inputs as well
    for value in list(changed.graph.input):
        if value.name in rows:
            _declare(value, ("rows", *named[value.name].shape[1:]))
        elif value.name in named:
            changed.graph.initializer.append(numpy_helper.from_array(named[value.name], value.name))
            changed.graph.input.remove(value)
    for value, array in zip(changed.graph.output, expected, strict=True):
        _declare(value, (None,) * array.ndim)
    return changed


def _declare(value: onnx.ValueInfoProto, shape: tuple) -> None:
    element = value.type.tensor_type.elem_type
    value.type.CopyFrom(onnx.helper.make_tensor_type_proto(element, shape))


def _run(case: Case, path: Path, rows: dict[str, np.ndarray], expected: tuple) -> Outcome:
    opened = open_onnx(path)
    wanted = dict(zip((value.name for value in case.model.graph.output), expected, strict=True))
    wanted = {name: wanted[name] for name in opened.outputs}
    whole = list(range(len(next(iter(rows.values())))))
    for places, called in ((whole, "output"), ([0], "first row alone, output"), (whole * 2, "rows twice, output")):
        found = predict(opened, {name: array[places] for name, array in rows.items()})
        of_rows = [array[places] for array in wanted.values()]
        difference = compare(of_rows, list(found.values()), case.rtol, case.atol, called)
        if difference:
            return Outcome("wrong", difference)
    return Outcome("passed")
