"""Reading an image at places that the model computes: grids and regions."""

import math

import torch

from undue_service.models.limits import MAX_ROW_ELEMENTS, too_large
from undue_service.models.onnx.values import Node, is_known
from undue_service.models.refusals import malformed, quoted, unsupported

from .bilinear import Places, Taps, cubic_taps, linear_taps, sample, sampled_parts, zero_outside

_INTERPOLATIONS = {"bilinear": "linear", "bicubic": "cubic"}
"""Names before opset 20."""


def grid_sample(node: Node) -> torch.Tensor:
    """Y[row, c, …] = X[row, c] at the place that the grid names: (rows, *outputs, axes), from −1 to 1, last axis first.

    `linear` (before opset 20 `bilinear`), `nearest` or `cubic`; beyond the ends there is nothing, the outermost element
    (`border`) or the mirror image (`reflection`), of the place, or of each element that `cubic` reads.
    """
    x, grid = node.tensor(0), node.tensor(1)
    mode, padding = node.text("mode", "linear"), node.text("padding_mode", "zeros")
    mode = _INTERPOLATIONS.get(mode, mode)
    rank, aligned = x.dim() - 2, bool(node.attribute("align_corners", 0))
    if rank < 1 or grid.dim() != x.dim() or grid.shape[-1] != rank:
        raise malformed(f"{node} reads a value of rank {x.dim()} by a grid of {tuple(grid.shape)[1:]}")
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise malformed(f"{node} has the mode {quoted(mode)} and the padding_mode {quoted(padding)}")
    if rank > 3:
        raise unsupported(f"{node} samples over {rank} axes; supported are 1 to 3")
    for value in (x, grid):
        node.keep_rows_apart(value, range(1, x.dim()), "samples over the rows")
    taps = []
    for axis in range(rank):
        size, place = int(x.shape[axis + 2]), grid[..., rank - 1 - axis]
        position = (place + 1) / 2 * (size - 1) if aligned else ((place + 1) * size - 1) / 2
        position = position.round() if mode == "nearest" else position
        # Cubic kernels reach further than the place itself: each element that they read is moved inside, not the place.
        held = position if mode == "cubic" else _moved_inside(position, size, aligned, padding)
        taps.append(_taps(held, mode))
    return sample(x, taps, _places(padding, aligned))


def _taps(position: torch.Tensor, mode: str) -> Taps:
    if mode == "nearest":
        return ((position.detach().round(), torch.ones_like(position)),)
    return linear_taps(position) if mode == "linear" else cubic_taps(position)


def _ends(size: int, aligned: bool) -> tuple[float, float]:
    return (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)


def _moved_inside(position: torch.Tensor, size: int, aligned: bool, padding: str) -> torch.Tensor:
    if padding == "reflection":
        return _reflected(position, *_ends(size, aligned))
    if padding == "border":
        low, high = _ends(size, aligned)
        return torch.where((position < low) | (position > high), position.clamp(0, size - 1), position)
    return position


def _reflected(position: torch.Tensor, low: float, high: float) -> torch.Tensor:
    span = high - low
    if span == 0:
        return torch.zeros_like(position)
    along = torch.remainder(position - low, 2 * span)
    return low + torch.where(along > span, 2 * span - along, along)


def _places(padding: str, aligned: bool) -> Places:
    if padding == "zeros":
        return zero_outside

    def inside(position: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        if padding == "reflection":
            position = _reflected(position, *_ends(size, aligned)).round()
        return position.clamp(0, size - 1), None

    return inside


def affine_grid(node: Node) -> torch.Tensor:
    """Y[row, …] = θ[row] · (place, 1), the places of an image of `size` from −1 to 1, last axis first.

    θ (rows, 2, 3) or (rows, 3, 4); without `align_corners` −1 and 1 are the outer edges of the outermost elements.
    """
    theta, sizes = node.tensor(0), node.integers(1).values[2:]
    rank = len(sizes)
    if rank not in (2, 3) or theta.dim() != 3 or tuple(theta.shape[1:]) != (rank, rank + 1):
        raise malformed(f"{node} transforms {rank} axes by a matrix of {tuple(theta.shape)[1:]}")
    node.keep_rows_apart(theta, (1, 2), "transforms over the rows")
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise unsupported(f"{node} makes a grid of the size {sizes}")
    if math.prod(sizes) > MAX_ROW_ELEMENTS:
        raise too_large(f"the number of places in {node}", int(math.prod(sizes)), MAX_ROW_ELEMENTS)
    places = []
    for size in sizes:
        index = torch.arange(int(size), dtype=theta.dtype, device=theta.device)
        if node.attribute("align_corners", 0):
            places.append(index * (2 / (size - 1)) - 1 if size > 1 else torch.zeros_like(index))
        else:
            places.append((2 * index + 1) / size - 1)
    axes = torch.meshgrid(*places, indexing="ij")
    homogeneous = torch.stack([*reversed(axes), torch.ones_like(axes[0])], -1).reshape(-1, rank + 1)
    return torch.matmul(homogeneous, theta.transpose(1, 2)).reshape(-1, *sizes, rank)


def roi_align(node: Node) -> torch.Tensor:
    """Y[r, c] = X[batch_indices[r], c] over region r, in `output_height` × `output_width` parts (He et al. 2017).

    Each part is the mean, or the largest, of `sampling_ratio`² places in it; 0 takes as many as the part is long. The
    largest is of the four weighted elements around each place. Regions are (x1, y1, x2, y2), times `spatial_scale`.
    """
    x, rois, rows = node.tensor(0), node.tensor(1), node.tensor(2)
    if x.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 4:
        raise malformed(f"{node} reads a value of rank {x.dim()} in regions of {tuple(rois.shape)}")
    node.keep_rows_apart(x, range(4), "picks rows by the regions' indices")
    node.keep_rows_apart(rois, range(2), "pools one region a row")
    mode, ratio = node.text("mode", "avg"), int(node.attribute("sampling_ratio", 0))
    frame = node.text("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else "output_half_pixel")
    if mode not in ("avg", "max") or frame not in ("half_pixel", "output_half_pixel") or ratio < 0:
        raise malformed(f"{node} has the mode {quoted(mode)}, {quoted(frame)} and sampling_ratio {ratio}")
    outputs = [int(node.attribute(name, 1)) for name in ("output_height", "output_width")]
    if min(outputs) < 1:
        raise malformed(f"{node} gives {outputs} parts")
    scaled = rois * float(node.attribute("spatial_scale", 1.0)) - (0.5 if frame == "half_pixel" else 0.0)
    starts = (scaled[:, 1], scaled[:, 0])
    lengths = (scaled[:, 3] - scaled[:, 1], scaled[:, 2] - scaled[:, 0])
    if frame != "half_pixel":
        lengths = (lengths[0].clamp(min=1.0), lengths[1].clamp(min=1.0))
    images = x.index_select(0, rows.long())
    if ratio:
        return _pooled(node, images, starts, lengths, outputs, (ratio, ratio), mode)
    if not is_known(rois):
        raise unsupported(f"{node} takes as many places as the data ask for; give it a sampling_ratio")
    counts = [[math.ceil(float(length) / n) for length in by_axis] for by_axis, n in zip(lengths, outputs, strict=True)]
    regions = []
    for r, count in enumerate(zip(*counts, strict=True)):
        one = slice(r, r + 1)
        of_region = (tuple(v[one] for v in starts), tuple(v[one] for v in lengths))
        regions.append(_pooled(node, images[one], *of_region, outputs, count, mode))
    return torch.cat(regions) if regions else x.new_zeros(0, int(x.shape[1]), *outputs)


def _pooled(
    node: Node,
    images: torch.Tensor,
    starts: tuple[torch.Tensor, ...],
    lengths: tuple[torch.Tensor, ...],
    outputs: list[int],
    counts: tuple[int, ...],
    mode: str,
) -> torch.Tensor:
    channels = int(images.shape[1])
    if min(counts) < 1:
        return images.new_zeros(int(images.shape[0]), channels, *outputs)
    if math.prod(outputs) * math.prod(counts) * channels > MAX_ROW_ELEMENTS:
        raise too_large(
            f"the number of places that {node} reads", math.prod(outputs) * math.prod(counts), MAX_ROW_ELEMENTS
        )
    taps = []
    for axis, (start, length, n, count) in enumerate(zip(starts, lengths, outputs, counts, strict=True)):
        steps = (torch.arange(n * count, device=images.device) + 0.5).to(images.dtype) / (n * count)
        position = start[:, None] + length[:, None] * steps
        shape = (-1, n * count, 1) if axis == 0 else (-1, 1, n * count)
        size = int(images.shape[axis + 2])
        taps.append([(p.reshape(shape), w.reshape(shape)) for p, w in _region_taps(position, size)])
    whole = (-1, -1, outputs[0], counts[0], outputs[1], counts[1])
    places = [
        [tuple(v.expand(-1, outputs[0] * counts[0], outputs[1] * counts[1]) for v in t) for t in axis] for axis in taps
    ]
    if mode == "avg":
        return sample(images, places, _anywhere).reshape(*images.shape[:2], *whole[2:]).mean((3, 5))
    largest = torch.stack(list(sampled_parts(images, places, _anywhere))).amax(0)
    return largest.reshape(*images.shape[:2], *whole[2:]).amax((3, 5))


def _region_taps(position: torch.Tensor, size: int) -> Taps:
    """Return the two neighbours of a place; at most one beyond the ends it is the outermost, further out nothing."""
    exists = ((position >= -1) & (position <= size)).to(position.dtype)
    held = position.clamp(0, size - 1)
    low = held.detach().floor()
    share = held - low
    return ((low, (1 - share) * exists), ((low + 1).clamp(max=size - 1), share * exists))


def _anywhere(position: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor | None]:  # noqa: ARG001
    return position, None
