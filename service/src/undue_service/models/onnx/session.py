"""The other implementation: onnxruntime on the original file."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from undue_service.models.refusals import quoted, unsupported

from .predictions import Predictions

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # type: ignore[import-untyped]


class OnnxRuntime:
    """An onnxruntime session, started when it is first needed."""

    def __init__(self, path: Path, outputs: tuple[str, ...], predictions: Predictions) -> None:
        self._path = path
        self._outputs = outputs
        self._predictions = predictions

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs, by name.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED, onnxruntime cannot run the file.
        """
        try:
            values = self._session.run(list(self._outputs), dict(inputs))
        except Exception as error:  # onnxruntime's own have no common base
            raise unsupported(f"onnxruntime cannot run the model: {quoted(error)}") from error
        named = zip(self._outputs, values, strict=True)
        return {name: self._predictions.of_file(name, value) for name, value in named}

    @cached_property
    def _session(self) -> "InferenceSession":
        import onnxruntime  # costs half a second, and only validation needs it

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        # Beyond it, products with quantised weights also round what they are multiplied by.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
