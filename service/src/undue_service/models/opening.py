"""The one door: a path and a format in, an `OpenedModel` out."""

from pathlib import Path

from undue_service.domain.architectures import ArchitectureChoice
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import ModelFormat

from .opened import OpenedModel


def open_model(
    path: str | Path,
    format: ModelFormat,  # noqa: A002 (the API's word)
    scratch: Path,
    architecture: ArchitectureChoice | None = None,
) -> OpenedModel:
    """Return the model in a file.

    Args:
        path: the uploaded file, which is only read.
        format: how to read it.
        scratch: an existing folder that belongs to the caller; a sanitised archive is written there.
        architecture: what a file of weights alone is loaded into.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS, STATIC_BATCH;
            WEIGHTS_MISMATCH, NON_FINITE_DATA or INVALID_FIELD of weights and their architecture.
        FailedPrecondition: TORCH_VERSION.
        ResourceExhausted: UPLOAD_TOO_LARGE, a bound of `limits` was met.
    """
    if format == "onnx":
        from .onnx import open_onnx

        return open_onnx(Path(path))
    if format == "pt2":
        from .pt2 import open_pt2

        return open_pt2(Path(path), scratch)
    if format == "safetensors" and architecture is not None:
        from .architectures import open_architecture

        return open_architecture(Path(path), architecture, scratch)
    text = f"there is no model format {format!r} by itself; there are onnx, pt2, and safetensors with an architecture"
    raise InvalidArgument.at("format", text)
