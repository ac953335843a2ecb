"""Resize and Upsample: each axis by itself, as weighted elements of the input at computed places."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from undue_service.models.limits import MAX_ROW_ELEMENTS, too_large
from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted, unsupported

from .interpolation import Kernel, Taps, nearest_taps, source_positions, weighted_taps

_MODES = ("nearest", "linear", "cubic")


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized."""

    axis: int
    size: int
    scale: float
    output: int
    region: tuple[float, float]
    """Begin and end, as shares of the axis; for `tf_crop_and_resize`."""


def upsample(node: Node) -> torch.Tensor:
    """Y = X with each axis `scales` times as long (Upsample-9): place i reads place ⌊i/scale⌋, or i/scale linearly."""
    x = node.tensor(0)
    axes = _by_scales(node, x, node.floats(1), range(x.dim()), [(0.0, 1.0)] * x.dim())
    return _resized(node, x, axes, "asymmetric", "floor")


def resize(node: Node) -> torch.Tensor:
    """Y = X resampled to other sizes, along each axis `nearest`, `linear` or `cubic`.

    Sizes are `scales` times those of X, rounded down, or given as `sizes`. Before opset 11 there are only `scales`, and
    coordinates are asymmetric.
    """
    x = node.tensor(0)
    if node.opset < 11:
        axes = _by_scales(node, x, node.floats(1), range(x.dim()), [(0.0, 1.0)] * x.dim())
        return _resized(node, x, axes, "asymmetric", "floor")
    transformation = node.text("coordinate_transformation_mode", "half_pixel")
    named = node.axes("axes")
    places = [node.axis(axis, x.dim()) for axis in (named if named is not None else range(x.dim()))]
    regions = _regions(node, len(places)) if transformation == "tf_crop_and_resize" else [(0.0, 1.0)] * len(places)
    scales = node.floats(2) if _is_given(node, 2) else ()
    if scales and transformation == "tf_crop_and_resize":
        raise unsupported(f"{node} crops by roi and scales; give sizes instead of scales")
    axes = _by_scales(node, x, scales, places, regions) if scales else _by_sizes(node, x, places, regions)
    return _resized(node, x, axes, transformation, node.text("nearest_mode", "round_prefer_floor"))


def _is_given(node: Node, index: int) -> bool:
    value = node.value(index)
    return value is not None and math.prod(getattr(value, "shape", getattr(value, "array", np.ones(1)).shape)) > 0


def _regions(node: Node, axes: int) -> list[tuple[float, float]]:
    roi = node.floats(1)
    if len(roi) != 2 * axes:
        raise malformed(f"{node} has a roi of {len(roi)} numbers for {axes} axes")
    return list(zip(roi[:axes], roi[axes:], strict=True))


def _by_scales(
    node: Node, x: torch.Tensor, scales: Sequence[float], places: Sequence[int], regions: Sequence[tuple[float, float]]
) -> list[_Axis]:
    if len(scales) != len(places) or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise malformed(f"{node} has the scales {tuple(scales)} for {len(places)} axes")
    axes = []
    for place, scale, region in zip(places, scales, regions, strict=True):
        if scale == 1:
            continue
        node.keep_rows_apart(x, [place], "resizes along the rows")
        size = int(x.shape[place])
        axes.append(_Axis(place, size, scale, math.floor(size * scale), region))
    return axes


def _by_sizes(
    node: Node, x: torch.Tensor, places: Sequence[int], regions: Sequence[tuple[float, float]]
) -> list[_Axis]:
    sizes, policy = node.integers(3).values, node.text("keep_aspect_ratio_policy", "stretch")
    if len(sizes) != len(places):
        raise malformed(f"{node} has the sizes {sizes} for {len(places)} axes")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        raise malformed(f"{node} has the keep_aspect_ratio_policy {quoted(policy)}")
    wanted = []
    for place, size, region in zip(places, sizes, regions, strict=True):
        own = x.shape[place]
        if isinstance(own, torch.SymInt) or isinstance(size, torch.SymInt):
            if not (isinstance(own, torch.SymInt) and isinstance(size, torch.SymInt) and bool(own == size)):
                node.keep_rows_apart(x, [place], "resizes along the rows")
                raise unsupported(f"{node} resizes to the number of rows")
            if policy != "stretch":
                raise unsupported(f"{node} keeps an aspect ratio that the number of rows is part of; name the axes")
            continue
        if size < 1 or own < 1:
            raise malformed(f"{node} resizes an axis of {own} to {size}")
        wanted.append(_Axis(place, int(own), int(size) / int(own), int(size), region))
    if policy != "stretch":
        scales = [axis.scale for axis in wanted]
        scale = min(scales, default=1.0) if policy == "not_larger" else max(scales, default=1.0)
        wanted = [_Axis(a.axis, a.size, scale, int(scale * a.size + 0.5), a.region) for a in wanted]
    return [axis for axis in wanted if axis.output != axis.size or axis.scale != 1 or axis.region != (0.0, 1.0)]


def _resized(node: Node, x: torch.Tensor, axes: Sequence[_Axis], transformation: str, nearest: str) -> torch.Tensor:
    mode = node.text("mode", "nearest")
    if mode not in _MODES:
        raise malformed(f"{node} has the mode {quoted(mode)}; there are {', '.join(_MODES)}")
    if mode != "nearest" and not x.is_floating_point():
        raise unsupported(f"{node} interpolates integers; mode nearest is supported")
    kernel = Kernel(
        mode == "cubic",
        bool(node.attribute("antialias", 0)),
        float(node.attribute("cubic_coeff_a", -0.75)),
        bool(node.attribute("exclude_outside", 0)),
    )
    elements = math.prod(int(size) for size in x.shape if not isinstance(size, torch.SymInt))
    outside: torch.Tensor | None = None
    for axis in axes:
        elements = elements // max(1, axis.size) * axis.output
        if elements > MAX_ROW_ELEMENTS:
            raise too_large(f"the number of elements that {node} gives", elements, MAX_ROW_ELEMENTS)
        found = source_positions(node, transformation, axis.size, axis.scale, axis.output, axis.region)
        taps = (
            nearest_taps(node, found, axis.size, nearest)
            if mode == "nearest"
            else weighted_taps(found, axis.size, axis.scale, kernel)
        )
        x = _read(x, axis.axis, taps)
        if transformation == "tf_crop_and_resize":
            beyond = torch.tensor(((found < 0) | (found > axis.size - 1)).tolist(), device=x.device)
            beyond = beyond.reshape(-1, *(1 for _ in range(x.dim() - axis.axis - 1)))
            outside = beyond if outside is None else outside | beyond
    if outside is None:
        return x
    return x.masked_fill(outside, float(node.attribute("extrapolation_value", 0.0)))


def _read(x: torch.Tensor, axis: int, taps: Taps) -> torch.Tensor:
    """Return Σ over the taps of weight · what `x` has there along an axis."""
    count = taps.index.shape[1]
    index = torch.tensor(taps.index.reshape(-1).tolist(), device=x.device)
    found = x.index_select(axis, index)
    if taps.weight is None:
        return found
    weight = torch.tensor(taps.weight.tolist(), dtype=x.dtype, device=x.device)
    return (found.unflatten(axis, (-1, count)) * weight.reshape(-1, count, *(1,) * (x.dim() - axis - 1))).sum(axis + 1)
