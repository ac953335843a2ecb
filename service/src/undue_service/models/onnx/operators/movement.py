"""Operators that move elements and compute nothing: each on data, and on shapes where exporters use it there."""

import numpy as np
import torch
from torch.nn import functional

from undue_service.models.limits import MAX_SHAPE_NUMBERS
from undue_service.models.onnx.values import Node, Shape, Value, Weight
from undue_service.models.refusals import malformed


def transpose(node: Node) -> Value:
    """Y = X with its axes permuted, reversed where there is no `perm`. A matrix of weights stays as it is stored."""
    value = node.value(0)
    if isinstance(value, Shape):
        return value.moved(value.array.transpose(node.axes("perm")))
    x = node.tensor(0)
    permutation = node.axes("perm") or tuple(reversed(range(x.dim())))
    if sorted(permutation) != list(range(x.dim())):
        raise malformed(f"{node} permutes {x.dim()} axes by {permutation}")
    if isinstance(value, Weight) and x.dim() == 2:
        return Weight(value.stored, not value.transposed) if permutation == (1, 0) else value
    return x.permute(permutation)


def squeeze(node: Node) -> Value:
    """Y = X without the given axes, which have size 1; without any of size 1 where none is given."""
    axes = node.axes_since(13, 1)
    value = node.value(0)
    if isinstance(value, Shape):
        return value.moved(np.squeeze(value.array, axes))
    x = node.tensor(0)
    if axes is None:
        axes = tuple(i for i, size in enumerate(x.shape) if isinstance(size, int) and size == 1)
    places = {node.axis(axis, x.dim()) for axis in axes}
    node.keep_rows_apart(x, places, "drops the axis of the rows")
    if any(x.shape[place] != 1 for place in places):
        raise malformed(f"{node} drops axes {tuple(axes)} of a value of shape {tuple(x.shape)}")
    return x.reshape([size for place, size in enumerate(x.shape) if place not in places])


def unsqueeze(node: Node) -> Value:
    """Y = X with new axes of size 1 at the given places."""
    axes = node.axes_since(13, 1)
    value = node.value(0)
    if isinstance(value, Shape):
        return value.moved(np.expand_dims(value.array, axes or ()))
    x = node.tensor(0)
    for place in sorted(node.axis(axis, x.dim() + len(axes or ())) for axis in axes or ()):
        x = x.unsqueeze(place)
    return x


def concat(node: Node) -> Value:
    """Y = the inputs one after the other along an axis."""
    values = [node.value(index) for index in range(len(node.inputs))]
    arrays = [value.array for value in values if isinstance(value, Shape)]
    if len(arrays) == len(values) and sum(array.size for array in arrays) <= MAX_SHAPE_NUMBERS:
        return node.integers(0).moved(np.concatenate(arrays, int(node.attribute("axis", 0))))
    tensors = [node.tensor(index) for index in range(len(values))]
    axis = node.axis(int(node.attribute("axis", 0)), tensors[0].dim())
    if any(tensor.dim() != tensors[0].dim() for tensor in tensors):
        raise malformed(f"{node} joins values of different ranks")
    for tensor in tensors:
        node.keep_rows_apart(tensor, [axis], "joins along the rows")
    return torch.cat(tensors, axis)


def gather(node: Node) -> Value:
    """Y = the slices of X along an axis that the indices name, whose axes take that axis's place.

    Integer data that looks rows up in a table of weights is an embedding.
    """
    value, places = node.value(0), node.value(1)
    if isinstance(value, Shape) and isinstance(places, Shape):
        axis = node.axis(int(node.attribute("axis", 0)), value.array.ndim)
        chosen, size = np.reshape(node.fixed(1), places.array.shape).astype(int), value.array.shape[axis]
        if ((chosen < -size) | (chosen >= size)).any():
            raise malformed(f"{node} reads beyond the {size} integers of its axis {axis}")
        return value.moved(np.take(value.array, chosen, axis))
    x = node.tensor(0)
    axis = node.axis(int(node.attribute("axis", 0)), x.dim())
    node.keep_rows_apart(x, [axis], "picks single rows")
    size = int(x.shape[axis])
    indices = node.tensor(1)
    if indices.is_floating_point():
        raise malformed(f"{node} takes indices that are not integers")
    if isinstance(places, Shape):
        if any(not -size <= place < size for place in node.fixed(1)):
            raise malformed(f"{node} reads beyond the {size} slices of its axis {axis}")
        if places.array.ndim == 0:
            return x.select(axis, node.fixed(1)[0])
        if places.array.ndim == 1:
            return x.index_select(axis, indices % size)
    indices = torch.where(indices < 0, indices + size, indices)
    if axis == 0 and x.is_floating_point():
        found = functional.embedding(indices, x if x.dim() == 2 else x.reshape(size, -1))
        return found.reshape(*indices.shape, *x.shape[1:])
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def slice_(node: Node) -> Value:
    """Y = X from `starts` to `ends` in `steps` along some axes, all of them attributes before opset 10."""
    value = node.value(0)
    given = [node.axes_since(10, index + 1, name) for index, name in enumerate(("starts", "ends", "axes", "steps"))]
    starts, ends = given[0] or (), given[1] or ()
    axes = range(len(starts)) if given[2] is None else given[2]
    steps = given[3] or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise malformed(f"{node} has {len(starts)} starts, {len(ends)} ends, {len(axes)} axes and the steps {steps}")
    if isinstance(value, Shape):
        array = value.array
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            array = array[(slice(None),) * node.axis(axis, array.ndim) + (slice(start, end, step),)]
        return value.moved(array)
    x = node.tensor(0)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = node.axis(axis, x.dim())
        if (start, step) == (0, 1) and end >= 2**31 - 1:
            continue
        node.keep_rows_apart(x, [place], "picks single rows")
        chosen = range(int(x.shape[place]))[slice(start, end, step)]
        if step > 0:
            x = x[(slice(None),) * place + (slice(chosen.start, chosen.stop, step),)]
        else:
            x = x.index_select(place, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x
