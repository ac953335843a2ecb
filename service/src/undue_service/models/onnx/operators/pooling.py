"""Pooling over windows, and over everything."""

import math

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, unsupported

from .spatial import Window, window

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def max_pool(node: Node) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Y = the largest element in each window; padding is smaller than every number.

    The second output is where each came from, counted over all rows, channels and elements of X, in C order, or with
    the first spatial axis the fastest where `storage_order` is 1.
    """
    x = node.tensor(0)
    sliding = window(node, x, _kernel(node))
    padding, padded = sliding.begins, x
    if not sliding.is_symmetric:
        smallest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        padded, padding = sliding.pad(x, smallest), (0,) * len(padding)
    pool = _MAX[len(padding)]
    if len(node.proto.output) < 2 or not node.proto.output[1]:
        return pool(padded, sliding.kernel, sliding.strides, padding, sliding.dilations)
    node.keep_rows_apart(x, [0], "gives indices that count over all rows")
    found, places = pool(padded, sliding.kernel, sliding.strides, padding, sliding.dilations, return_indices=True)
    by_axis, rest = [], places
    for axis in reversed(range(len(padding))):
        size = int(padded.shape[axis + 2])
        by_axis.insert(0, rest % size - (sliding.begins[axis] if padded is not x else 0))
        rest = rest // size
    axes = list(range(len(padding)))
    index = torch.zeros_like(places)
    for axis in reversed(axes) if node.attribute("storage_order", 0) else axes:
        index = index * sliding.sizes[axis] + by_axis[axis]
    planes = torch.arange(int(x.shape[0]) * int(x.shape[1]), device=x.device) * math.prod(sliding.sizes)
    return found, index + planes.reshape(*x.shape[:2], *(1 for _ in axes))


def lp_pool(node: Node) -> torch.Tensor:
    """Y = (Σ |X|^p)^(1/p) over each window; padding counts as 0."""
    x, p = node.tensor(0), _order(node)
    sliding = window(node, x, _kernel(node))
    powers = sliding.pad(x.abs() ** p, 0.0)
    if set(sliding.dilations) == {1}:
        mean = _AVERAGE[len(sliding.kernel)](powers, sliding.kernel, sliding.strides)
    else:
        mean = _dilated_mean(powers, sliding)
    return _root(mean * math.prod(sliding.kernel), p)


def global_lp_pool(node: Node) -> torch.Tensor:
    """Y = (Σ |X|^p)^(1/p) over all spatial axes, which stay as axes of size 1."""
    x, p = node.tensor(0), _order(node)
    return _root((x.abs() ** p).sum(dim=_spatial(node, x), keepdim=True), p)


def average_pool(node: Node) -> torch.Tensor:
    """Y = the mean over each window, without its padding unless `count_include_pad`."""
    x = node.tensor(0)
    sliding = window(node, x, _kernel(node))
    with_padding = bool(node.attribute("count_include_pad", 0))
    plain = set(sliding.dilations) == {1}
    if plain and sliding.is_symmetric:
        pool = _AVERAGE[len(sliding.kernel)]
        return pool(x, sliding.kernel, sliding.strides, sliding.begins, count_include_pad=with_padding)
    padded = sliding.pad(x, 0.0)
    if plain:
        mean = _AVERAGE[len(sliding.kernel)](padded, sliding.kernel, sliding.strides)
    else:
        mean = _dilated_mean(padded, sliding)
    share = _counted(sliding, with_padding, x)
    return mean if share is None else mean * share


def global_average_pool(node: Node) -> torch.Tensor:
    """Y = the mean over all spatial axes, which stay as axes of size 1."""
    x = node.tensor(0)
    axes = _spatial(node, x)
    return x.mean(dim=axes, keepdim=True)


def global_max_pool(node: Node) -> torch.Tensor:
    """Y = the largest element over all spatial axes, which stay as axes of size 1."""
    x = node.tensor(0)
    axes = _spatial(node, x)
    # One window over everything, not amax: of equal elements the first has the gradient, as in torch's pooling.
    flat = x.reshape(x.shape[0], x.shape[1], -1)
    largest = functional.max_pool1d(flat, int(flat.shape[-1]))
    return largest.reshape(x.shape[0], x.shape[1], *(1 for _ in axes))


def _order(node: Node) -> int:
    p = int(node.attribute("p", 2))
    if p < 1:
        raise malformed(f"{node} has the order {p}")
    return p


def _root(total: torch.Tensor, p: int) -> torch.Tensor:
    """Return the p-th root; at 0, where it has no derivative, the gradient is 0."""
    if p == 1:
        return total
    positive = total > 0
    return torch.where(positive, torch.where(positive, total, torch.ones_like(total)) ** (1 / p), total)


def _kernel(node: Node) -> tuple[int, ...]:
    kernel = node.axes("kernel_shape")
    if kernel is None:
        raise malformed(f"{node} has no kernel_shape")
    return kernel


def _spatial(node: Node, x: torch.Tensor) -> tuple[int, ...]:
    if x.dim() < 3:
        raise unsupported(f"{node} pools a value of rank {x.dim()}; it needs rows, channels and at least one more axis")
    node.keep_rows_apart(x, range(1, x.dim()), "pools over the rows")
    return tuple(range(2, x.dim()))


def _dilated_mean(padded: torch.Tensor, sliding: Window) -> torch.Tensor:
    channels = int(padded.shape[1])
    ones = padded.new_ones(channels, 1, *sliding.kernel) / math.prod(sliding.kernel)
    return _CONVOLVE[len(sliding.kernel)](padded, ones, None, sliding.strides, 0, sliding.dilations, channels)


def _counted(sliding: Window, with_padding: bool, like: torch.Tensor) -> torch.Tensor | None:
    """Return kernel elements over counted elements for each window, (1, 1, *outputs); None where all are 1."""
    by_axis = sliding.counts(with_padding)
    if any(0 in axis for axis in by_axis):
        raise malformed("a window of AveragePool lies in the padding altogether")
    if all(count == size for axis, size in zip(by_axis, sliding.kernel, strict=True) for count in axis):
        return None
    share = like.new_ones(())
    for axis, size in zip(by_axis, sliding.kernel, strict=True):
        share = share.unsqueeze(-1) * (size / torch.tensor(axis, dtype=like.dtype, device=like.device))
    return share[None, None]
