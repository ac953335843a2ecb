"""Reductions over axes of one row."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node, Operator
from undue_service.models.refusals import malformed, unsupported

Reduce = Callable[[torch.Tensor, Sequence[int], bool], torch.Tensor]


@dataclass(frozen=True)
class _Reduction:
    """An operator: its axes are an attribute before an opset, and an input from then on."""

    over_axes: Reduce
    since: int
    of_each: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    """What it computes of each element where it reduces over no axis."""
    of_nothing: float | None = None
    """The result over axes without elements; None where torch's own is right."""

    def __call__(self, node: Node) -> torch.Tensor:
        x = node.tensor(0)
        given = node.axes_since(self.since, 1)
        if not given and node.attribute("noop_with_empty_axes", 0):
            return self.of_each(x)
        axes = sorted({node.axis(axis, x.dim()) for axis in given} if given else range(x.dim()))
        node.keep_rows_apart(x, axes, "reduces over the rows")
        if not axes:
            return self.of_each(x)
        keep = bool(node.attribute("keepdims", 1))
        if self.of_nothing is not None and any(isinstance(x.shape[a], int) and x.shape[a] == 0 for a in axes):
            return _filled(x, axes, keep, _least(x, self.of_nothing))
        return self.over_axes(x, axes, keep)


def _filled(x: torch.Tensor, axes: Sequence[int], keep: bool, value: float) -> torch.Tensor:
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
    return torch.full(sizes, value, dtype=x.dtype, device=x.device)


def _least(x: torch.Tensor, value: float) -> float | int | bool:
    """Return infinity as the type of `x` has it."""
    if x.is_floating_point() or math.isfinite(value):
        return value
    if x.dtype == torch.bool:
        return value > 0
    return torch.iinfo(x.dtype).max if value > 0 else torch.iinfo(x.dtype).min


def _sum(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.sum(x, list(axes), keepdim=keep, dtype=x.dtype)


def _mean(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.mean(x, list(axes), keepdim=keep)
    count = math.prod(int(x.shape[axis]) for axis in axes)
    return torch.div(torch.sum(x, list(axes), keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


def _product(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    others = [axis for axis in range(x.dim()) if axis not in axes]
    flat = x.permute(*others, *axes).flatten(len(others))
    product = torch.prod(flat, -1, dtype=x.dtype)
    if keep:
        for axis in axes:
            product = product.unsqueeze(axis)
    return product


def _magnitudes(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return _sum(torch.abs(x) if x.dtype.is_signed else x, axes, keep)


def _length(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, list(axes), keepdim=keep)
    return torch.linalg.vector_norm(x.to(torch.float64), 2, list(axes), keepdim=keep).to(x.dtype)


def _of_floats(node_reduces: Reduce) -> Reduce:
    def reduce(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
        if not x.is_floating_point():
            raise unsupported("a logarithm of integers has no integer result; convert them to float32 before it")
        return node_reduces(x, axes, keep)

    return reduce


def _largest(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.amax(x, list(axes), keepdim=keep)


def _smallest(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    return torch.amin(x, list(axes), keepdim=keep)


reduce_sum: Operator = _Reduction(_sum, 13)
reduce_mean: Operator = _Reduction(_mean, 18)
reduce_max: Operator = _Reduction(_largest, 18, of_nothing=-math.inf)
reduce_min: Operator = _Reduction(_smallest, 18, of_nothing=math.inf)
reduce_product: Operator = _Reduction(_product, 18)
reduce_l1: Operator = _Reduction(_magnitudes, 18, torch.abs)
reduce_l2: Operator = _Reduction(_length, 18, torch.abs)
reduce_sum_square: Operator = _Reduction(lambda x, axes, keep: _sum(x * x, axes, keep), 18, torch.square)
reduce_log_sum: Operator = _Reduction(_of_floats(lambda x, axes, keep: torch.log(_sum(x, axes, keep))), 18, torch.log)
reduce_log_sum_exp: Operator = _Reduction(
    _of_floats(lambda x, axes, keep: torch.logsumexp(x, list(axes), keepdim=keep)), 18, of_nothing=-math.inf
)


def lp_normalization(node: Node) -> torch.Tensor:
    """Y = X / ‖X‖ₚ along one axis, p = 1 or 2, and 0 where the norm is 0."""
    x, order = node.tensor(0), int(node.attribute("p", 2))
    if order not in (1, 2):
        raise malformed(f"{node} takes the norm of order {order}; there are 1 and 2")
    axis = node.axis(int(node.attribute("axis", -1)), x.dim())
    node.keep_rows_apart(x, [axis], "normalises across the rows")
    is_zero = (x == 0).all(axis, keepdim=True)
    # The norm of zeros has no derivative: they are replaced before it is taken, so that none of it is NaN.
    norm = torch.linalg.vector_norm(torch.where(is_zero, 1.0, x), order, axis, keepdim=True)
    return x / torch.where(is_zero, 1.0, norm)


def determinant(node: Node) -> torch.Tensor:
    """Y = the determinant of the matrices in the last two axes."""
    x = node.tensor(0)
    if x.dim() < 2:
        raise malformed(f"{node} takes the determinant of a value of rank {x.dim()}")
    node.keep_rows_apart(x, (x.dim() - 2, x.dim() - 1), "takes the rows for a row of a matrix")
    return torch.linalg.det(x)


def hardmax(node: Node) -> torch.Tensor:
    """Y = 1 at the first largest element along an axis, else 0; before opset 13 over all axes from `axis` on."""
    x = node.tensor(0)
    axis = node.axis(int(node.attribute("axis", -1 if node.opset >= 13 else 1)), x.dim())
    node.keep_rows_apart(x, [axis] if node.opset >= 13 else range(axis, x.dim()), "chooses among the rows")
    last = x.movedim(axis, -1) if node.opset >= 13 else x.flatten(axis)
    hot = functional.one_hot(last.argmax(-1), int(last.shape[-1])).to(x.dtype)
    return hot.movedim(-1, axis) if node.opset >= 13 else hot.reshape(x.shape)
