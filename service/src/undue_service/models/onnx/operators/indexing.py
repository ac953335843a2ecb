"""Reading and writing single elements and slices at places that are computed."""

import math
from collections.abc import Callable, Sequence

import torch

from undue_service.models.onnx.values import Node, Shape, is_known
from undue_service.models.refusals import ONNX_EXPORT, malformed, quoted, static_batch

from .ordering import refuse_sizes_of_data

Reduction = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor], torch.Tensor]


def gather_elements(node: Node) -> torch.Tensor:
    """Y[i, j, …] = X[I[i, j, …], j, …] for axis 0, likewise for the others."""
    x, indices, axis = _along(node)
    return torch.gather(x, axis, indices)


def scatter_elements(node: Node) -> torch.Tensor:
    """Y = X with Y[I[i, j, …], j, …] = U[i, j, …] for axis 0, or reduced with it: add, mul, max, min since opset 16.

    Where several elements go to one place and nothing is said of how they are reduced, ONNX does not say which stays.
    """
    x, indices, axis = _along(node)
    return _reduction(node)(x, axis, indices, node.tensor(2).to(x.dtype))


def _along(node: Node) -> tuple[torch.Tensor, torch.Tensor, int]:
    x, indices = node.tensor(0), node.tensor(1)
    axis = node.axis(int(node.attribute("axis", 0)), x.dim())
    node.keep_rows_apart(x, [axis], "picks single rows")
    if indices.dim() != x.dim() or indices.is_floating_point():
        raise malformed(f"{node} takes indices of rank {indices.dim()} for a value of rank {x.dim()}")
    if any(
        isinstance(x.shape[at], torch.SymInt) != isinstance(indices.shape[at], torch.SymInt) for at in range(x.dim())
    ):
        # torch lets the indices have fewer rows, and leaves the others as they are.
        raise static_batch(f"{node} takes indices for a number of rows that is fixed", ONNX_EXPORT)
    return x, _from_the_front(node, indices, int(x.shape[axis])), axis


def _from_the_front(node: Node, indices: torch.Tensor, size: int) -> torch.Tensor:
    whole = indices.to(torch.int64)
    if is_known(whole) and bool(((whole < -size) | (whole >= size)).any()):
        raise malformed(f"{node} reaches beyond an axis of {size}")
    return torch.where(whole < 0, whole + size, whole)


def gather_nd(node: Node) -> torch.Tensor:
    """Y[b, …] = X[b, I[b, …, :]]: the last axis of the indices names a place in the axes after `batch_dims` others."""
    x, indices = node.tensor(0), node.tensor(1)
    batches = int(node.attribute("batch_dims", 0))
    depth = _depth(node, x, indices, batches)
    node.keep_rows_apart(x, range(batches, batches + depth), "picks single rows")
    within, rest = _sizes(x, batches, batches + depth), x.shape[batches + depth :]
    places = _places(node, indices, within)
    batch, chosen = x.shape[:batches], indices.shape[batches:-1]
    slices = x.reshape(*batch, math.prod(within), *rest)
    if not batches:
        return slices.index_select(0, places.reshape(-1)).reshape([*chosen, *rest])
    flat = places.reshape(*batch, math.prod(chosen), *(1 for _ in rest))
    found = torch.gather(slices, batches, flat.expand(*flat.shape[: batches + 1], *rest))
    return found.reshape(*batch, *chosen, *rest)


def scatter_nd(node: Node) -> torch.Tensor:
    """Y = X with Y[I[…, :]] = U[…], or reduced with it: add and mul since opset 16, max and min since 18.

    Where several slices go to one place and nothing is said of how they are reduced, ONNX does not say which stays.
    """
    x, indices, updates = node.tensor(0), node.tensor(1), node.tensor(2)
    depth = _depth(node, x, indices, 0)
    node.keep_rows_apart(x, range(depth), "writes into single rows")
    within, rest = _sizes(x, 0, depth), x.shape[depth:]
    if tuple(updates.shape) != (*indices.shape[:-1], *rest):
        raise malformed(f"{node} writes {tuple(updates.shape)} at {tuple(indices.shape)} of {tuple(x.shape)}")
    places = _places(node, indices, within).reshape(-1, *(1 for _ in rest)).expand(-1, *rest)
    slices = x.reshape(math.prod(within), *rest)
    return _reduction(node)(slices, 0, places, updates.reshape(-1, *rest).to(x.dtype)).reshape(x.shape)


def _depth(node: Node, x: torch.Tensor, indices: torch.Tensor, batches: int) -> int:
    depth = int(indices.shape[-1]) if indices.dim() else 0
    if not 0 <= batches < max(1, indices.dim()) or not 1 <= depth <= x.dim() - batches:
        raise malformed(f"{node} reads {tuple(x.shape)} at indices of shape {tuple(indices.shape)}")
    return depth


def _sizes(x: torch.Tensor, start: int, end: int) -> list[int]:
    return [int(size) for size in x.shape[start:end]]


def _places(node: Node, indices: torch.Tensor, within: Sequence[int]) -> torch.Tensor:
    """Return places (…, k) in axes of k sizes as places along all of them in C order, (…)."""
    parts = [_from_the_front(node, indices[..., axis], size) for axis, size in enumerate(within)]
    steps = [math.prod(within[axis + 1 :]) for axis in range(len(within))]
    return sum((part * step for part, step in zip(parts, steps, strict=True)), start=torch.zeros_like(parts[0]))


def _reduction(node: Node) -> Reduction:
    kind = node.text("reduction", "none")
    if kind not in _REDUCTIONS:
        raise malformed(f"{node} reduces by {quoted(kind)}; there are {', '.join(_REDUCTIONS)}")
    return _REDUCTIONS[kind]


def _scatter(x: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    return torch.scatter(x, axis, places, updates)


def _scatter_add(x: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    return torch.scatter_add(x, axis, places, updates)


def _scatter_reduce(how: str) -> Reduction:
    def scatter(x: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        return torch.scatter_reduce(x, axis, places, updates, how)

    return scatter


_REDUCTIONS = {
    "none": _scatter,
    "add": _scatter_add,
    "mul": _scatter_reduce("prod"),
    "max": _scatter_reduce("amax"),
    "min": _scatter_reduce("amin"),
}


def tensor_scatter(node: Node) -> torch.Tensor:
    """Y = a cache (rows, …, S, …) with an update (rows, …, s, …) written along an axis, in each row from its own place.

    Beyond the end it goes on at the start in the mode "circular".
    """
    cache, update, starts = node.tensor(0), node.tensor(1), node.optional(2)
    axis, mode = node.axis(int(node.attribute("axis", -2)), cache.dim()), node.text("mode", "linear")
    if axis == 0 or mode not in ("linear", "circular"):
        raise malformed(f"{node} writes along axis {axis} in the mode {quoted(mode)}")
    size, new = int(cache.shape[axis]), int(update.shape[axis])
    rows = update.shape[0] if starts is None else starts.shape[0]
    fits = all(a == b for place, (a, b) in enumerate(zip(cache.shape, update.shape, strict=True)) if place != axis)
    if not fits or rows != cache.shape[0]:
        raise malformed(f"{node} writes {tuple(update.shape)} at {rows} places into a cache {tuple(cache.shape)}")
    places = torch.arange(new, device=cache.device)
    places = places.unsqueeze(0) if starts is None else starts.to(torch.int64).reshape(-1, 1) + places
    if mode == "circular":
        places = places % size
    elif is_known(places) and bool(((places < 0) | (places >= size)).any()):
        raise malformed(f"{node} writes beyond the {size} places of its cache")
    wide = places.reshape(places.shape[0], *(new if other == axis else 1 for other in range(1, cache.dim())))
    return torch.scatter(cache, axis, wide.expand(update.shape), update)


def compress(node: Node) -> torch.Tensor:
    """Y = the slices along an axis, or the elements in C order without one, where a condition holds."""
    x, condition = node.tensor(0), node.value(1)
    if any(attribute.name == "axis" for attribute in node.proto.attribute):
        axis = node.axis(int(node.attribute("axis", 0)), x.dim())
    else:
        node.keep_rows_apart(x, range(x.dim()), "chooses among the rows")
        x, axis = x.reshape(-1), 0
    node.keep_rows_apart(x, [axis], "chooses among the rows")
    if isinstance(condition, Shape):
        chosen = torch.tensor([place for place, holds in enumerate(node.fixed(1)) if holds], dtype=torch.int64)
    else:
        refuse_sizes_of_data(node, node.tensor(1))
        chosen = torch.nonzero(node.tensor(1).reshape(-1)).reshape(-1)
    return x.index_select(axis, chosen.to(x.device))


def reverse_sequence(node: Node) -> torch.Tensor:
    """Y = X with the first `lengths` elements along the time axis in reverse, for each element of the batch axis."""
    x, lengths = node.tensor(0), node.tensor(1)
    time = node.axis(int(node.attribute("time_axis", 0)), x.dim())
    batch = node.axis(int(node.attribute("batch_axis", 1)), x.dim())
    if {time, batch} != {0, 1}:
        raise malformed(f"{node} has the time axis {time} and the batch axis {batch}; they are 0 and 1")
    node.keep_rows_apart(x, [time], "reverses the rows")
    steps = torch.arange(int(x.shape[time]), device=x.device)
    steps, ends = (steps, lengths.unsqueeze(1)) if time == 1 else (steps.unsqueeze(1), lengths)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    return torch.gather(x, time, places.reshape(*places.shape, *(1 for _ in x.shape[2:])).expand(x.shape))
