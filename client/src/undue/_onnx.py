"""ONNX models in several files, as torch.onnx.export writes them, joined with the caller's own onnx."""

import importlib.util
from pathlib import Path
from typing import Any

from ._errors import invalid


def whole_model(path: Path, folder: Path) -> Path:
    """Return a file that holds the model and all of its weights: `path` itself, or a joined copy in `folder`.

    Weights are looked for beside the model only. Without onnx the file is returned as it is; the service says what to
    do where weights are missing.

    Raises:
        InvalidArgument: MODEL_MALFORMED, the weights' file is missing or leads elsewhere.
    """
    if not path.is_file() or importlib.util.find_spec("onnx") is None or not _may_have_parts(path):
        return path
    import onnx

    try:
        model: Any = onnx.load(path, load_external_data=False)
        if not any(onnx.external_data_helper.uses_external_data(one) for one in model.graph.initializer):
            return path
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises what its parser, its checker and the file system raise
        raise invalid("source", f"{path.name} cannot be read whole: {error}", reason="MODEL_MALFORMED") from error
    joined = folder / path.name
    joined.write_bytes(model.SerializeToString())
    return joined


def _may_have_parts(path: Path) -> bool:
    """Return whether the file names another one; without this look every model would be parsed here too."""
    with path.open("rb") as file:
        tail = b""
        while part := file.read(1 << 20):
            if b"location" in tail + part:
                return True
            tail = part[-8:]
    return False
