"""Reshaping, repeating, and the shapes that exporters compute around it."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from undue_service.models.limits import MAX_SHAPE_NUMBERS
from undue_service.models.onnx.element_types import CARRIED
from undue_service.models.onnx.initializers import stored_array
from undue_service.models.onnx.values import Integer, Node, Shape, Value, Weight
from undue_service.models.refusals import ONNX_EXPORT, malformed, static_batch


def flatten(node: Node) -> torch.Tensor:
    """Y = X as a matrix: axes before `axis` are its rows, the others its columns."""
    x = node.tensor(0)
    axis = int(node.attribute("axis", 1))
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        node.keep_rows_apart(x, range(x.dim()), "folds all rows into one")
        return x.reshape(1, -1)
    matrix = torch.flatten(x, axis) if axis < x.dim() else x.unsqueeze(-1)
    return matrix if axis == 1 else torch.flatten(matrix, 0, axis - 1)


def reshape(node: Node) -> Value:
    """Y = X in another shape: −1 is inferred, 0 copies the axis of X unless `allowzero`."""
    target = node.integers(1)
    value = node.value(0)
    if isinstance(value, Shape):
        sizes = [value.array.shape[axis] if size == 0 else size for axis, size in enumerate(node.fixed(1))]
        return value.moved(value.array.reshape(sizes))
    x = node.tensor(0)
    sizes = _copied(node, x, target.values)
    if x.dim() and isinstance(x.shape[0], torch.SymInt) and not _keeps_rows_open(x, sizes):
        first = sizes[0] if sizes else "none"
        raise static_batch(f"{node} writes {first} where the number of rows belongs", ONNX_EXPORT)
    reshaped = x.reshape(sizes)
    return Weight(reshaped) if isinstance(value, Weight) else reshaped


def _copied(node: Node, x: torch.Tensor, target: Sequence[Integer]) -> list[Integer]:
    if node.attribute("allowzero", 0):
        return list(target)
    if any(isinstance(size, int) and size == 0 and axis >= x.dim() for axis, size in enumerate(target)):
        raise malformed(f"{node} copies an axis that its input does not have")
    return [x.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(target)]


def _keeps_rows_open(x: torch.Tensor, sizes: Sequence[Integer]) -> bool:
    """Whether a shape leaves the number of rows open: as its first size, or its second where k · rows are laid out."""
    is_open = [isinstance(size, torch.SymInt) or size == -1 for size in sizes[:2]]
    if not is_open or is_open[0]:
        return bool(is_open)
    divides = is_open[-1] and statically_known_true(x.shape[0] % sizes[0] == 0)
    return divides and (sizes[0] != 1 or list(sizes[2:]) == list(x.shape[1:]))


def shape(node: Node) -> Shape:
    """Y = the sizes of X from `start` to `end` (both since opset 15)."""
    value = node.value(0)
    sizes = value.array.shape if isinstance(value, Shape) else tuple(node.tensor(0).shape)
    start, end = int(node.attribute("start", 0)), int(node.attribute("end", len(sizes)))
    return Shape.of(sizes[start:end])


def size(node: Node) -> Shape:
    """Y = the number of elements of X."""
    value = node.value(0)
    sizes = value.array.shape if isinstance(value, Shape) else tuple(node.tensor(0).shape)
    return Shape.of([math.prod(sizes)], ())


def expand(node: Node) -> Value:
    """Y = X repeated along axes of size 1, broadcast with the given shape in both directions."""
    value, target = node.value(0), node.integers(1).values
    if isinstance(value, Shape) and all(isinstance(size, int) for size in target):
        sizes = np.broadcast_shapes(value.array.shape, node.fixed(1))
        if math.prod(sizes) <= MAX_SHAPE_NUMBERS:
            return value.moved(np.broadcast_to(value.array, sizes))
    x = node.tensor(0)
    rank = max(x.dim(), len(target))
    own = [1] * (rank - x.dim()) + list(x.shape)
    wanted = [1] * (rank - len(target)) + list(target)
    return x.expand(
        [size if isinstance(want, int) and want == 1 else want for size, want in zip(own, wanted, strict=True)]
    )


def constant_of_shape(node: Node) -> Value:
    """Y = one number, 0 unless `value` says otherwise, in the given shape."""
    sizes = node.integers(0).values
    stored = next((a.t for a in node.proto.attribute if a.name == "value"), None)
    numbers = np.zeros(1, np.float32) if stored is None else stored_array(stored, str(node))
    if numbers.size != 1:
        raise malformed(f"{node} fills with {numbers.size} numbers, not one")
    dtype = CARRIED[stored.data_type] if stored is not None else torch.float32
    number = numbers.reshape(-1)[0].item()
    is_whole = not (dtype.is_floating_point or dtype.is_complex)
    if is_whole and all(isinstance(size, int) for size in sizes) and math.prod(sizes) <= MAX_SHAPE_NUMBERS:
        return Shape.of([int(number)] * math.prod(sizes), sizes, dtype)
    return torch.full(list(sizes), number, dtype=dtype)
