"""Files that hold a model's weights at another time: a checkpoint, or where training begins."""

from pathlib import Path

import safetensors
import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import WeightsFormat

from .limits import MAX_ENTRIES, MAX_FILE_BYTES, too_large
from .opening import open_model


def open_weights(path: Path, format: WeightsFormat, scratch: Path) -> dict[str, Tensor]:  # noqa: A002 (the API's word)
    """Return the tensors of a file by name, on the CPU.

    Args:
        path: the uploaded file, which is only read.
        format: how to read it; of an ONNX file or a `.pt2` archive, the model's parameters and buffers.
        scratch: an existing folder that belongs to the caller.

    Raises:
        InvalidArgument: MODEL_MALFORMED; NON_FINITE_DATA; what `open_model` raises.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    tensors = _safetensors(path) if format == "safetensors" else _of_model(path, format, scratch)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            text = f"the weights {name!r} hold NaN or infinity"
            raise InvalidArgument(Reason.NON_FINITE_DATA, text, metadata={"parameter": name})
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise too_large("the size of the weights file", path.stat().st_size, MAX_FILE_BYTES)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_ENTRIES:
                raise too_large("the number of tensors in the weights file", len(names), MAX_ENTRIES)
            return {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        text = f"the weights file is not safetensors, or damaged: {error}"
        raise InvalidArgument(Reason.MODEL_MALFORMED, text) from error


def _of_model(path: Path, format: WeightsFormat, scratch: Path) -> dict[str, Tensor]:  # noqa: A002
    assert format != "safetensors"  # noqa: S101  the caller's other branch
    exported = open_model(path, format, scratch).exported
    named = {**dict(exported.named_parameters()), **dict(exported.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}
