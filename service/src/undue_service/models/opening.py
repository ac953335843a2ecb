"""The one door: a path and a format in, an `OpenedModel` out."""

from pathlib import Path
from typing import Literal

from undue_service.domain.errors import InvalidArgument

from .opened import OpenedModel


def open_model(path: str | Path, format: Literal["onnx", "pt2"], scratch: Path) -> OpenedModel:  # noqa: A002 (the API's word)
    """Return the model in a file.

    Args:
        path: the uploaded file, which is only read.
        format: how to read it.
        scratch: an existing folder that belongs to the caller; a sanitised archive is written there.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS, STATIC_BATCH.
        FailedPrecondition: TORCH_VERSION.
        ResourceExhausted: UPLOAD_TOO_LARGE, a bound of `limits` was met.
    """
    if format == "onnx":
        from .onnx import open_onnx

        return open_onnx(Path(path))
    if format == "pt2":
        from .pt2 import open_pt2

        return open_pt2(Path(path), scratch)
    raise InvalidArgument.at("format", f"there is no model format {format!r}; there are onnx and pt2")
