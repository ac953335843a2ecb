"""The ways in for models: ONNX files and `.pt2` archives become a `torch.export` ExportedProgram.

Model files are hostile until proven otherwise. They are parsed as data, nothing in them is unpickled or evaluated,
and whatever is wrong with one is a `domain.errors.Error`.
"""

from .opened import OpenedModel
from .opening import open_model
from .parity import parity
from .running import predict
from .weights import open_weights

__all__ = ["OpenedModel", "open_model", "open_weights", "parity", "predict"]
