"""Reshaping, and the arithmetic on shapes that exporters write around it."""

from collections.abc import Sequence

import torch

from undue_service.models.onnx.values import Integer, Node, Shape, Value, Weight, dense
from undue_service.models.refusals import ONNX_EXPORT, malformed, static_batch, unsupported


def flatten(node: Node) -> torch.Tensor:
    """Y = X as a matrix: axes before `axis` are its rows, the others its columns."""
    x = node.tensor(0)
    axis = int(node.attribute("axis", 1))
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        raise unsupported(f"{node} folds all rows into one; a row's output must not depend on other rows")
    matrix = torch.flatten(x, axis) if axis < x.dim() else x.unsqueeze(-1)
    return matrix if axis == 1 else torch.flatten(matrix, 0, axis - 1)


def reshape(node: Node) -> Value:
    """Y = X in another shape: −1 is inferred, 0 copies the axis of X unless `allowzero`."""
    target = node.integers(1)
    value = node.value(0)
    if isinstance(value, Shape):
        return _reshape_shape(node, value, target.values)
    x = node.tensor(0)
    sizes = _copied(node, x, target.values)
    if isinstance(x.shape[0] if x.dim() else None, torch.SymInt) and not _keeps_rows_open(sizes):
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


def _keeps_rows_open(sizes: Sequence[Integer]) -> bool:
    return bool(sizes) and (isinstance(sizes[0], torch.SymInt) or sizes[0] == -1)


def _reshape_shape(node: Node, value: Shape, target: Sequence[Integer]) -> Shape:
    if not (target in ((-1,), (len(value.values),)) or (not target and len(value.values) == 1)):
        raise unsupported(f"{node} makes a matrix of a shape")
    return Shape(value.values, is_scalar=not target)


def transpose(node: Node) -> Weight:
    """Y = Xᵀ of a matrix of weights; the parameter stays as it is stored."""
    value = node.value(0)
    rank = dense(value).dim() if isinstance(value, Weight) else 0
    if not isinstance(value, Weight) or rank != 2:
        raise unsupported(f"{node} turns something other than a matrix of weights")
    permutation = node.axes("perm") or (1, 0)
    return Weight(value.stored, not value.transposed) if permutation == (1, 0) else value


def shape(node: Node) -> Shape:
    """Y = the sizes of X from `start` to `end` (both since opset 15)."""
    value = node.value(0)
    sizes = (len(value.values),) if isinstance(value, Shape) else tuple(node.tensor(0).shape)
    start, end = int(node.attribute("start", 0)), int(node.attribute("end", len(sizes)))
    return Shape(sizes[start:end])


def gather(node: Node) -> Shape:
    """Y = the sizes at the given places."""
    sizes, places = node.integers(0).values, node.integers(1)
    if any(not isinstance(place, int) or not -len(sizes) <= place < len(sizes) for place in places.values):
        raise malformed(f"{node} reads beyond the end of a shape")
    return Shape(tuple(sizes[place] for place in places.values), is_scalar=places.is_scalar)


def concat(node: Node) -> Shape:
    """Y = shapes joined to one."""
    return Shape(tuple(size for index in range(len(node.inputs)) for size in node.integers(index).values))


def squeeze(node: Node) -> Shape:
    """Y = a list of one size as that size."""
    value = node.integers(0)
    if len(value.values) != 1:
        raise malformed(f"{node} takes {len(value.values)} sizes for one")
    return Shape(value.values, is_scalar=True)


def unsqueeze(node: Node) -> Shape:
    """Y = one size as a list of one."""
    value = node.integers(0)
    if not value.is_scalar:
        raise unsupported(f"{node} makes a matrix of a shape")
    return Shape(value.values)
