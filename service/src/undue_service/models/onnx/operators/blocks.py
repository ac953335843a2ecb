"""Operators that cut a value into parts, or put parts together."""

import math
from collections.abc import Iterable

import numpy as np
import torch

from undue_service.models.limits import MAX_SHAPE_NUMBERS
from undue_service.models.onnx.values import Node, Shape, Value
from undue_service.models.refusals import malformed, quoted

from .generation import require_room


def split(node: Node) -> tuple[Value, ...]:
    """Y₁, Y₂, … = X cut along an axis, into parts of the given sizes, else into equal parts.

    The sizes are an attribute before opset 13 and an input from then on. Since opset 18 the last part may be smaller.
    """
    value, parts = node.value(0), len(node.proto.output)
    x = value.array if isinstance(value, Shape) else node.tensor(0)
    axis = node.axis(int(node.attribute("axis", 0)), x.ndim)
    if not isinstance(value, Shape):
        node.keep_rows_apart(node.tensor(0), [axis], "splits the rows")
    size = int(x.shape[axis])
    sizes = node.axes_since(13, 1, "split")
    if sizes is None:
        declared = int(node.attribute("num_outputs", parts)) if node.opset >= 18 else parts
        each = -(-size // max(1, declared))
        sizes = tuple(min(each, max(0, size - each * index)) for index in range(declared))
        if node.opset < 18 and size % parts:
            raise malformed(f"{node} cuts {size} elements into {parts} equal parts")
    if sum(sizes) != size or min(sizes, default=0) < 0 or len(sizes) != parts:
        raise malformed(f"{node} cuts {size} elements into {parts} parts of {sizes}")
    if isinstance(value, Shape):
        cuts = np.split(value.array, np.cumsum(sizes)[:-1], axis)
        return tuple(value.moved(part) for part in cuts)
    return tuple(torch.split(node.tensor(0), list(sizes), axis))


def tile(node: Node) -> Value:
    """Y = X repeated along each axis."""
    value, repeats = node.value(0), node.integers(1).values
    if isinstance(value, Shape) and math.prod((value.array.size, *node.fixed(1))) <= MAX_SHAPE_NUMBERS:
        return value.moved(np.tile(value.array, node.fixed(1)))
    x = node.tensor(0)
    if len(repeats) != x.dim() or any(isinstance(times, int) and times < 0 for times in repeats):
        raise malformed(f"{node} repeats a value of rank {x.dim()} {quoted(repeats)} times")
    changed = [axis for axis, times in enumerate(repeats) if not (isinstance(times, int) and times == 1)]
    node.keep_rows_apart(x, changed, "repeats the rows")
    require_room(node, [*x.shape, *repeats])
    return x.repeat(*repeats)


def depth_to_space(node: Node) -> torch.Tensor:
    """Y (rows, C/b², b H, b W) of X (rows, C, H, W): channels (b, b, C/b²) become blocks; (C/b², b, b) in mode CRD."""
    x, size = _blocked(node)
    rows, channels, height, width = x.shape
    if int(channels) % (size * size):
        raise malformed(f"{node} makes blocks of {size}×{size} of {channels} channels")
    left = int(channels) // (size * size)
    if _column_first(node):
        parts = x.reshape(rows, left, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(rows, size, size, left, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(rows, left, int(height) * size, int(width) * size)


def space_to_depth(node: Node) -> torch.Tensor:
    """Y (rows, b² C, H/b, W/b) of X (rows, C, H, W): the reverse of DepthToSpace."""
    x, size = _blocked(node)
    rows, channels, height, width = x.shape
    if int(height) % size or int(width) % size:
        raise malformed(f"{node} makes channels of blocks of {size}×{size} of {height}×{width}")
    high, wide = int(height) // size, int(width) // size
    parts = x.reshape(rows, channels, high, size, wide, size)
    order = (0, 1, 3, 5, 2, 4) if _column_first(node) else (0, 3, 5, 1, 2, 4)
    return parts.permute(order).reshape(rows, int(channels) * size * size, high, wide)


def _blocked(node: Node) -> tuple[torch.Tensor, int]:
    x, size = node.tensor(0), int(node.attribute("blocksize", 0))
    if x.dim() != 4 or size < 1:
        raise malformed(f"{node} takes blocks of {size} of a value of rank {x.dim()}; it takes rank 4")
    node.keep_rows_apart(x, [1, 2, 3], "takes the rows for channels")
    return x, size


def _column_first(node: Node) -> bool:
    mode = node.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise malformed(f"{node} has the mode {quoted(mode)}")
    return mode == "CRD"


def column_to_image(node: Node) -> torch.Tensor:
    """Y (rows, C, *image) = the sum of blocks X (rows, C · Π block, L), each at its place: unfolding transposed."""
    x, image, block = node.tensor(0), node.fixed(1), node.fixed(2)
    rank, size = len(image), math.prod(block)
    if x.dim() != 3 or rank < 1 or len(block) != rank or min(image + block) < 1 or int(x.shape[1]) % size:
        raise malformed(f"{node} makes {image} of blocks {block} and a value of shape {tuple(x.shape)}")
    node.keep_rows_apart(x, [1, 2], "takes the rows for blocks")
    strides, dilations = (_by_axis(node, name, rank, 1) for name in ("strides", "dilations"))
    pads = node.axes("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank or min(pads) < 0:
        raise malformed(f"{node} has the pads {pads} for {rank} axes")
    padded = [edge + before + after for edge, before, after in zip(image, pads[:rank], pads[rank:], strict=True)]
    require_room(node, [*x.shape[1:], *padded])
    counts = [
        (edge - dilation * (k - 1) - 1) // stride + 1
        for edge, dilation, k, stride in zip(padded, dilations, block, strides, strict=True)
    ]
    if min(counts) < 1 or math.prod(counts) != int(x.shape[2]):
        raise malformed(f"{node} has {x.shape[2]} blocks, its sizes say {counts}")
    places = torch.zeros(1, 1, dtype=torch.int64, device=x.device)
    for edge, k, count, stride, dilation in zip(padded, block, counts, strides, dilations, strict=True):
        inside = torch.arange(k, device=x.device) * dilation
        along = inside.unsqueeze(1) + torch.arange(count, device=x.device) * stride
        places = (places.unsqueeze(1).unsqueeze(3) * edge + along.unsqueeze(1).unsqueeze(0)).flatten(2).flatten(0, 1)
    rows, channels = x.shape[0], int(x.shape[1]) // size
    blocks = x.reshape(rows, channels, -1)
    whole = torch.zeros(rows, channels, math.prod(padded), dtype=x.dtype, device=x.device)
    whole = whole.index_add(2, places.reshape(-1), blocks).reshape(rows, channels, *padded)
    for axis, (before, edge) in enumerate(zip(pads[:rank], image, strict=True)):
        whole = whole.narrow(axis + 2, before, edge)
    return whole


def _by_axis(node: Node, name: str, rank: int, default: int) -> tuple[int, ...]:
    values: Iterable[int] = node.axes(name) or (default,) * rank
    listed = tuple(values)
    if len(listed) != rank or min(listed) < 1:
        raise malformed(f"{node} has the {name} {listed} for {rank} axes")
    return listed
