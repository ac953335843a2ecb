"""Element types: ONNX's codes, torch's types, NumPy's arrays."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import torch

from undue_service.models.refusals import quoted, unsupported

FLOATS: Mapping[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}
"""What a model computes in."""
INTEGERS: Mapping[int, str] = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.INT32: "int32"}
"""What a model takes beside it: ids and positions."""
CARRIED: Mapping[int, torch.dtype] = {
    **{code: getattr(torch, name) for code, name in (*FLOATS.items(), *INTEGERS.items())},
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.COMPLEX64: torch.complex64,
    onnx.TensorProto.COMPLEX128: torch.complex128,
}
"""What an edge inside a graph may hold: numbers that torch has a type for, of at least a byte, and no float8."""
_CODES = {dtype: code for code, dtype in CARRIED.items()}


def element_type(code: int) -> str:
    """Return ONNX's name of an element type."""
    names = {value: name for name, value in onnx.TensorProto.DataType.items()}
    return names.get(code, f"element type {code}")


def torch_type(code: int, what: str) -> torch.dtype:
    """Return torch's type for an ONNX code.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED, naming the type and what it was wanted for.
    """
    if code not in CARRIED:
        raise unsupported(f"{what} {element_type(code)}; supported are {', '.join(map(element_type, CARRIED))}")
    return CARRIED[code]


def onnx_code(dtype: torch.dtype) -> int:
    """Return the ONNX code of a torch type that an edge may hold."""
    return _CODES[dtype]


def to_tensor(array: np.ndarray, what: str) -> torch.Tensor:
    """Return a copy of an array of numbers as a tensor.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED for elements that an edge may not hold.
    """
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.array(array, order="C").view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiubc" or array.dtype.type.__module__ != "numpy":
        raise unsupported(f"{what} holds {quoted(array.dtype)}, which is not supported")
    return torch.from_numpy(np.array(array, order="C"))


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array of the same element type."""
    plain = tensor.detach().contiguous()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return plain.numpy()
