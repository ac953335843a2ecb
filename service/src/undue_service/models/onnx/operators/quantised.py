"""Integers that stand for real numbers."""

import torch

from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, unsupported

_STORED = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def dequantize_linear(node: Node) -> torch.Tensor:
    """Y = (X − zero point) · scale, for the whole, for each slice of `axis`, or for each of its blocks.

    Since opset 21 blocks of `block_size`, since 23 the type of Y may be given.
    """
    x, scale, zero = node.tensor(0), node.tensor(1), node.optional(2)
    if x.dtype not in _STORED:
        raise unsupported(f"{node} reads {x.dtype}; supported are integers of 8, 16 and 32 bits")
    if zero is not None and (zero.shape != scale.shape or zero.dtype != x.dtype):
        raise malformed(f"{node} has a zero point of another shape or type than its scale and input")
    code = int(node.attribute("output_dtype", 0))
    dtype = torch_type(code, f"{node} gives") if code else scale.dtype
    # The difference of two stored integers is exact in int64; onnxruntime multiplies in the type of the scale.
    difference = x.to(torch.int64) if zero is None else x.to(torch.int64) - _spread(node, x, zero).to(torch.int64)
    return (difference.to(scale.dtype) * _spread(node, x, scale)).to(dtype)


def _spread(node: Node, x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return one number for the whole, or one a slice or block of X, as an array that broadcasts with X."""
    if values.numel() == 1 and values.dim() <= 1:
        return values.reshape(())
    axis = node.axis(int(node.attribute("axis", 1)), x.dim())
    if values.dim() == 1:
        if values.shape[0] != x.shape[axis]:
            raise malformed(f"{node} has {values.shape[0]} scales for {x.shape[axis]} slices")
        return values.reshape([-1 if place == axis else 1 for place in range(x.dim())])
    size = int(node.attribute("block_size", 0))
    if size < 1 or values.dim() != x.dim() or values.shape[axis] != -(-int(x.shape[axis]) // size):
        raise malformed(f"{node} has scales of shape {tuple(values.shape)} for blocks of {size} of {tuple(x.shape)}")
    return values.repeat_interleave(size, axis).narrow(axis, 0, int(x.shape[axis]))
