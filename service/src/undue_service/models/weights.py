"""Files that hold a model's weights at another time: a checkpoint, or where training begins."""

from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import WeightsFormat

from .foreign import refuse_foreign
from .limits import MAX_ENTRIES, MAX_FILE_BYTES, too_large
from .opening import open_model
from .pt2.strict import parse_json
from .refusals import quoted

MAX_HEADER_BYTES = 8 * 2**20
"""Of a safetensors file; the library's own limit of 100 MB takes a gigabyte to parse."""

_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""What the library calls them; the other types are those of quantised weights, which nothing here computes with."""


def open_weights(path: Path, format: WeightsFormat, scratch: Path) -> dict[str, Tensor]:  # noqa: A002 (the API's word)
    """Return the tensors of a file by name, on the CPU.

    Args:
        path: the uploaded file, which is only read.
        format: how to read it; of an ONNX file or a `.pt2` archive, the model's parameters and buffers.
        scratch: an existing folder that belongs to the caller.

    Raises:
        InvalidArgument: MODEL_MALFORMED; MODEL_UNSUPPORTED; NON_FINITE_DATA; what `open_model` raises.
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
    entries = _entries(path)
    if len(entries) > MAX_ENTRIES:
        raise too_large("the number of tensors in the weights file", len(entries), MAX_ENTRIES)
    for name, entry in entries.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if isinstance(dtype, str) and dtype not in _DTYPES:
            text = f"the weights {name!r} are of the type {dtype}; convert them to float32 before they are saved"
            raise InvalidArgument(Reason.MODEL_UNSUPPORTED, text, metadata={"parameter": name})
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _malformed(quoted(error)) from error


def _entries(path: Path) -> dict[str, Any]:
    """Return what a safetensors file says of each tensor; the library takes the last of several of one name."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            # Most such files are of another format, whose first bytes are no length.
            refuse_foreign(path, "a file of weights in safetensors")
            raise _malformed(f"its header would have {size:,} bytes, and may have {MAX_HEADER_BYTES:,}")
        header = file.read(size)
    try:
        found = parse_json(header.decode(), "its header")
    except (UnicodeDecodeError, InvalidArgument) as error:
        raise _malformed(str(error) if isinstance(error, UnicodeDecodeError) else error.message) from error
    if not isinstance(found, dict):
        raise _malformed("its header is no JSON object")
    return {name: entry for name, entry in found.items() if name != "__metadata__"}


def _malformed(why: str) -> InvalidArgument:
    text = (
        f"the weights file is not safetensors, or damaged ({why}): write it with "
        "safetensors.torch.save_file(model.state_dict(), path), or hand in the module itself"
    )
    return InvalidArgument(Reason.MODEL_MALFORMED, text)


def _of_model(path: Path, format: WeightsFormat, scratch: Path) -> dict[str, Tensor]:  # noqa: A002
    assert format != "safetensors"  # noqa: S101  the caller's other branch
    exported = open_model(path, format, scratch).exported
    named = {**dict(exported.named_parameters()), **dict(exported.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}
