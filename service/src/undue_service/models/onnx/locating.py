"""Where onnxruntime and the imported graph part: both run with every tensor between the nodes as an output."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch

from undue_service.models.opened import Arrays, Parting

from .element_types import to_array
from .module import OnnxModule
from .predictions import Predictions
from .values import Product, Shape, Value, Weight, dense


class Locator:
    """Finds the first tensor in which two runs of one file differ."""

    def __init__(self, path: Path, module: OnnxModule, inputs: tuple[str, ...], predictions: Predictions) -> None:
        self._path = path
        self._module = module
        self._inputs = inputs
        self._predictions = predictions

    def __call__(self, inputs: Arrays, tolerance: float) -> Parting | None:
        """Return where the two part on some rows, None where no tensor that both have differs.

        Args:
            inputs: few rows, since all tensors are held at once.
            tolerance: of max |r − p| / max(1, |r|), r onnxruntime's number and p the program's.
        """
        model = onnx.load(self._path, load_external_data=False)
        ours = self._ours(inputs)
        makers = {name: node for node in model.graph.node for name in node.output if name in ours}
        theirs = self._theirs(model, list(makers), inputs)
        for name, node in makers.items():
            expected, actual = self._predictions.of_file(name, theirs[name]), ours[name]
            if not isinstance(expected, np.ndarray):
                continue
            if expected.shape != actual.shape:
                return Parting(name, node.op_type, f"of the shape {expected.shape}", f"{actual.shape}")
            place = _first_apart(expected, actual, tolerance)
            if place is not None:
                return Parting(name, node.op_type, str(expected.flat[place]), str(actual.flat[place]))
        return None

    def _ours(self, inputs: Arrays) -> dict[str, np.ndarray]:
        with torch.no_grad():
            values = self._module.trace(*(torch.from_numpy(inputs[name]) for name in self._inputs))
        return dict(_arrays(values))

    def _theirs(self, model: onnx.ModelProto, names: list[str], inputs: Arrays) -> dict[str, object]:
        import onnxruntime

        listed = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in listed)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _arrays(values: Mapping[str, Value | None]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in values.items():
        if isinstance(value, Shape):
            yield name, to_array(torch.tensor(value.values, dtype=value.dtype).reshape(value.array.shape))
        elif isinstance(value, torch.Tensor | Weight | Product):
            yield name, to_array(dense(value))


def _first_apart(expected: np.ndarray, actual: np.ndarray, tolerance: float) -> int | None:
    """Return the place of the largest difference where that is above the tolerance; equal NaNs are no difference."""
    if not expected.size:
        return None
    if expected.dtype.kind not in "fc":
        unequal = np.flatnonzero(expected.reshape(-1) != actual.reshape(-1))
        return int(unequal[0]) if len(unequal) else None
    with np.errstate(invalid="ignore"):
        apart = np.abs(expected - actual) / np.maximum(1.0, np.abs(expected))
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    worst = int(np.argmax(apart))
    return worst if apart.flat[worst] > tolerance else None
