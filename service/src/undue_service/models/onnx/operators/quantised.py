"""Arithmetic on quantised integers: exact, but without a derivative (see `support`)."""

import math

import torch

from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, unsupported

from .convolution import convolve

_INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16)
_STORED = (*_INTEGERS, torch.int32)


def quantize_linear(node: Node) -> torch.Tensor:
    """Y = X / scale, rounded half to even, + zero point, held within Y's type: uint8, int8, uint16 or int16.

    One scale, one for each place of `axis`, or, since opset 21, for each block of `block_size` of them.
    """
    x, scale, zero = node.tensor(0), node.tensor(1), node.optional(2)
    declared = int(node.attribute("output_dtype", 0))
    dtype = torch.uint8
    if zero is not None or declared:
        dtype = zero.dtype if zero is not None else torch_type(declared, f"{node} quantises to")
    precision = int(node.attribute("precision", 0))
    kind = torch_type(precision, f"{node} divides in") if precision else scale.dtype
    if not kind.is_floating_point:
        kind = torch.float32
    scale = _spread(node, x, scale)
    levels = torch.round(x.to(kind) / scale.to(kind)).to(torch.float64)
    return _held(node, levels, None if zero is None else _spread(node, x, zero), dtype)


def dequantize_linear(node: Node) -> torch.Tensor:
    """Y = (X − zero point) · scale, in the type of the scale or `output_dtype`; scales as those of QuantizeLinear."""
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


def matmul_integer(node: Node) -> torch.Tensor:
    """Y = (A − zero point) (B − zero point), int32; a zero point is one number, one a row of A or a column of B."""
    a, b = node.tensor(0), node.tensor(1)
    return _product(a, b, node.optional(2), node.optional(3)).to(torch.int32)


def q_linear_matmul(node: Node) -> torch.Tensor:
    """Y = (A − zero point) (B − zero point) · a_scale · b_scale / y_scale, rounded, + zero point, in Y's type."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (node.tensor(index) for index in range(8))
    product = _product(a, b, a_zero, b_zero).to(torch.float64)
    scale = _of_rows(a, a_scale).double() * b_scale.double() / _of_rows(a, y_scale).double()
    return _held(node, torch.round(product * scale), _of_rows(a, y_zero), y_zero.dtype)


def conv_integer(node: Node) -> torch.Tensor:
    """Y = (X − zero point) ⋆ (W − zero point), int32; W's zero point is one number or one an output channel."""
    return _convolved(node, node.tensor(0), node.tensor(1), node.optional(2), node.optional(3)).to(torch.int32)


def q_linear_conv(node: Node) -> torch.Tensor:
    """Y = ((X − zero point) ⋆ (W − zero point) + B) · x_scale · w_scale / y_scale, rounded, + zero point, as Y."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (node.tensor(index) for index in range(8))
    total, bias = _convolved(node, x, w, x_zero, w_zero), node.optional(8)
    channel = (-1, *(1 for _ in range(x.dim() - 2)))
    total = total if bias is None else total + bias.double().reshape(channel)
    scale = x_scale.double() * w_scale.double().reshape(channel) / y_scale.double()
    return _held(node, torch.round(total * scale), y_zero, y_zero.dtype)


def _product(
    a: torch.Tensor, b: torch.Tensor, a_zero: torch.Tensor | None, b_zero: torch.Tensor | None
) -> torch.Tensor:
    left = a.long() if a_zero is None else a.long() - _of_rows(a, a_zero).long()
    return torch.matmul(left, b.long() if b_zero is None else b.long() - b_zero.long())


def _of_rows(a: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return one number, or one for each row of the matrix A, so that it is broadcast along the columns."""
    return value.unsqueeze(-1) if value.dim() == 1 and value.numel() > 1 and a.dim() > 1 else value


def _convolved(
    node: Node, x: torch.Tensor, w: torch.Tensor, x_zero: torch.Tensor | None, w_zero: torch.Tensor | None
) -> torch.Tensor:
    """Return the convolution in float64, which holds sums of products of bytes exactly; padding is the zero point."""
    if math.prod(int(size) for size in w.shape[1:]) > 2**36:
        raise unsupported(f"{node} sums too many products to be exact")
    left = x.double() if x_zero is None else x.double() - x_zero.double()
    right = w.double()
    if w_zero is not None:
        right = right - (w_zero.double().reshape(-1, *(1,) * (w.dim() - 1)) if w_zero.dim() else w_zero.double())
    return convolve(node, left, right, None)


def _held(node: Node, levels: torch.Tensor, zero: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    if dtype not in _INTEGERS:
        raise unsupported(f"{node} quantises to {dtype}; supported are {', '.join(map(str, _INTEGERS))}")
    shifted = levels if zero is None else levels + zero.to(levels.dtype)
    limits = torch.iinfo(dtype)
    return shifted.clamp(limits.min, limits.max).to(torch.int64).to(dtype)


def _spread(node: Node, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return scales or zero points so that they are broadcast with X."""
    if value.numel() == 1 and value.dim() <= 1:
        return value.reshape(())
    axis, block = node.axis(int(node.attribute("axis", 1)), x.dim()), int(node.attribute("block_size", 0))
    if value.dim() == 1 and not block:
        if value.shape[0] != x.shape[axis]:
            raise malformed(f"{node} has {value.shape[0]} scales for an axis of {x.shape[axis]}")
        return value.reshape(-1, *(1,) * (x.dim() - axis - 1))
    if block < 1 or value.dim() != x.dim():
        raise malformed(f"{node} has scales of {tuple(value.shape)} for {tuple(x.shape)} in blocks of {block}")
    spread = value.repeat_interleave(block, axis).narrow(axis, 0, int(x.shape[axis]))
    if spread.shape != x.shape:
        raise malformed(f"{node} has scales of {tuple(value.shape)} for {tuple(x.shape)} in blocks of {block}")
    return spread
