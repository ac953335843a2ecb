"""Windows that slide over the spatial axes of (rows, channels, *spatial): what Conv and the pooling operators share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted, unsupported

MAX_SPATIAL = 3


@dataclass(frozen=True)
class Window:
    """One window per spatial axis; every field has one entry an axis."""

    sizes: tuple[int, ...]
    """Of the input."""
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    """Padding before the first element."""
    ends: tuple[int, ...]
    """Padding after the last element, as declared; `ceil_mode` may read beyond it."""
    outputs: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """How many elements of the input a window spans: d (k − 1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def reaches(self) -> tuple[int, ...]:
        """How far the last window reaches beyond the input: padding that is needed after it, at least 0."""
        axes = zip(self.sizes, self.begins, self.strides, self.outputs, self.extents, strict=True)
        return tuple(max(0, (out - 1) * s + extent - size - begin) for size, begin, s, out, extent in axes)

    @property
    def is_symmetric(self) -> bool:
        """Whether torch's own padding, the same on both sides and at most half a kernel, says all of it."""
        axes = zip(self.begins, self.ends, self.reaches, self.kernel, strict=True)
        return all(begin == end and reach <= end and 2 * begin <= k for begin, end, reach, k in axes)

    def pad(self, x: torch.Tensor, value: float) -> torch.Tensor:
        """Return `x` with all padding written out."""
        pairs = [(begin, reach) for begin, reach in zip(self.begins, self.reaches, strict=True)]
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return functional.pad(x, flat, value=value) if any(flat) else x

    def counts(self, with_padding: bool) -> list[list[int]]:
        """Return, for each axis and window, how many of its elements lie in the input, or in it and its padding.

        An element that only `ceil_mode` reaches lies in neither.
        """
        axes = zip(
            self.sizes, self.strides, self.dilations, self.kernel, self.begins, self.ends, self.outputs, strict=True
        )
        found = []
        for size, stride, dilation, kernel, begin, end, outputs in axes:
            low, high = (-begin, size + end) if with_padding else (0, size)
            starts = [index * stride - begin for index in range(outputs)]
            found.append([sum(low <= start + j * dilation < high for j in range(kernel)) for start in starts])
        return found


def window(node: Node, x: torch.Tensor, kernel: Sequence[int], convolves: bool = False) -> Window:
    """Return the window of a node over its input.

    Raises:
        InvalidArgument: MODEL_MALFORMED for attributes that do not fit the input, MODEL_UNSUPPORTED for sizes that are
            not fixed, or more than three spatial axes.
    """
    rank = len(kernel)
    if not 1 <= rank <= MAX_SPATIAL or x.dim() != rank + 2:
        raise unsupported(
            f"{node} slides over {x.dim() - 2} axes with a kernel of {rank}; supported are 1 to {MAX_SPATIAL}"
        )
    node.keep_rows_apart(x, range(1, x.dim()), "slides over the rows")
    sizes = tuple(int(size) for size in x.shape[2:])
    strides, dilations = (of_each_axis(node, name, rank) for name in ("strides", "dilations"))
    if any(size < 1 for size in kernel):
        raise malformed(f"{node} has a kernel of {tuple(kernel)}")
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto_pad = node.text("auto_pad", "NOTSET")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        outputs = [-(-size // s) for size, s in zip(sizes, strides, strict=True)]
        needed = [
            (out - 1) * s + extent - size for size, s, out, extent in zip(sizes, strides, outputs, extents, strict=True)
        ]
        if not convolves and min(needed) < 0:
            # onnxruntime centres such a pool's windows or refuses them; TensorFlow begins at the first element.
            raise unsupported(f"{node} skips elements under auto_pad, which is read in two ways; write pads instead")
        missing = [max(0, total) for total in needed]
        halves, rests = [total // 2 for total in missing], [total - total // 2 for total in missing]
        begins, ends = (halves, rests) if auto_pad == "SAME_UPPER" else (rests, halves)
        return Window(sizes, tuple(kernel), strides, dilations, tuple(begins), tuple(ends), tuple(outputs))
    if auto_pad not in ("NOTSET", "VALID", ""):
        raise malformed(f"{node} has the auto_pad {quoted(auto_pad)}")
    pads = (node.axes("pads") if auto_pad != "VALID" else None) or (0,) * (2 * rank)
    if len(pads) != 2 * rank or min(pads) < 0:
        raise malformed(f"{node} has the pads {pads} for {rank} axes")
    begins, ends = pads[:rank], pads[rank:]
    ceil = bool(node.attribute("ceil_mode", 0))
    axes = zip(sizes, strides, extents, begins, ends, strict=True)
    outputs = [_windows(size, stride, extent, begin, end, ceil) for size, stride, extent, begin, end in axes]
    if min(outputs) < 1:
        raise malformed(f"{node} slides a kernel of {tuple(kernel)} over {sizes}, which is smaller")
    return Window(sizes, tuple(kernel), strides, dilations, tuple(begins), tuple(ends), tuple(outputs))


def _windows(size: int, stride: int, extent: int, begin: int, end: int, ceil: bool) -> int:
    steps = (size + begin + end - extent) / stride
    count = math.ceil(steps) + 1 if ceil else math.floor(steps) + 1
    # A window that would start in the padding after the last element is left out (ONNX since 1.16, torch always).
    return count - 1 if ceil and (count - 1) * stride >= size + begin else count


def of_each_axis(node: Node, name: str, rank: int) -> tuple[int, ...]:
    """Return strides or dilations, 1 where there are none.

    Raises:
        InvalidArgument: MODEL_MALFORMED.
    """
    values = node.axes(name) or (1,) * rank
    if len(values) != rank or min(values) < 1:
        raise malformed(f"{node} has the {name} {values} for {rank} axes")
    return values
