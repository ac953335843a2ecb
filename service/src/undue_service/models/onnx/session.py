"""The other implementation: onnxruntime on the original file."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from undue_service.models.refusals import quoted, unsupported

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # type: ignore[import-untyped]


class OnnxRuntime:
    """An onnxruntime session, started when it is first needed."""

    def __init__(
        self, path: Path, outputs: tuple[str, ...], unpacked: Mapping[str, tuple[int | str, ...]] | None = None
    ) -> None:
        """Prepare to run a file.

        Args:
            path: where it is.
            outputs: which of its outputs.
            unpacked: the keys, in order, of an output that is a list of maps.
        """
        self._path = path
        self._outputs = outputs
        self._unpacked = unpacked or {}

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs, by name.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED, onnxruntime cannot run the file.
        """
        try:
            values = self._session.run(list(self._outputs), dict(inputs))
        except Exception as error:  # onnxruntime's own have no common base
            raise unsupported(f"onnxruntime cannot run the model: {quoted(error)}") from error
        named = dict(zip(self._outputs, values, strict=True))
        for name, keys in self._unpacked.items():
            if name in named:
                rows = [[row[key] for key in keys] for row in named[name]]
                named[name] = np.asarray(rows, np.float32).reshape(len(rows), len(keys))
        return named

    @cached_property
    def _session(self) -> "InferenceSession":
        import onnxruntime  # costs half a second, and only validation needs it

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
