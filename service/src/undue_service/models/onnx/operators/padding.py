"""Elements before and after those along an axis: constant, or taken from inside."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted, unsupported

from .generation import require_room

_FROM_INSIDE = ("reflect", "edge", "wrap")


def pad(node: Node) -> torch.Tensor:
    """Y = X with elements before and after each axis, or without some where an amount is negative.

    Amounts are an attribute before opset 11; chosen axes come with opset 18, "wrap" with 19.
    """
    x, mode = node.tensor(0), node.text("mode", "constant")
    amounts = (node.axes("pads") if node.opset < 11 else node.fixed(1)) or ()
    axes = node.axes_since(18, 3) if node.opset >= 18 else None
    places = [node.axis(axis, x.dim()) for axis in (axes if axes is not None else range(x.dim()))]
    if len(amounts) != 2 * len(places) or len(set(places)) != len(places):
        raise malformed(f"{node} pads {len(places)} axes by {amounts}")
    by_axis = [(0, 0)] * x.dim()
    for place, begin, end in zip(places, amounts[: len(places)], amounts[len(places) :], strict=True):
        by_axis[place] = (begin, end)
    node.keep_rows_apart(x, [place for place in places if by_axis[place] != (0, 0)], "adds rows")
    require_room(node, [size + begin + end for size, (begin, end) in zip(x.shape, by_axis, strict=True)])
    if mode in _FROM_INSIDE:
        return _from_inside(node, x, by_axis, mode)
    if mode != "constant":
        raise malformed(f"{node} pads in the mode {quoted(mode)}; there are constant, {', '.join(_FROM_INSIDE)}")
    flat = [amount for pair in reversed(by_axis) for amount in pair]
    value = node.optional(2) if node.opset >= 11 else None
    if value is None:
        return functional.pad(x, flat, value=float(node.attribute("value", 0.0)))
    inside = functional.pad(torch.ones_like(x, dtype=torch.bool), flat, value=False)
    return torch.where(inside, functional.pad(x, flat), value.to(x.dtype).reshape(()))


def _from_inside(node: Node, x: torch.Tensor, by_axis: Sequence[tuple[int, int]], mode: str) -> torch.Tensor:
    for axis, (begin, end) in enumerate(by_axis):
        if (begin, end) == (0, 0):
            continue
        if min(begin, end) < 0:
            raise unsupported(f"{node} cuts elements off in the mode {mode}, which is read in several ways; use Slice")
        places = np.arange(int(x.shape[axis]))
        if not len(places):
            raise malformed(f"{node} takes elements from an axis that has none")
        taken = np.pad(places, (begin, end), mode=mode)  # type: ignore[call-overload]
        x = x.index_select(axis, torch.from_numpy(taken).to(x.device))
    return x


def center_crop_pad(node: Node) -> torch.Tensor:
    """Y = the middle of X in the given sizes; an axis that is too short gets zeros on both sides, more at its end."""
    x, sizes = node.tensor(0), node.fixed(1)
    axes = node.axes("axes")
    places = [node.axis(axis, x.dim()) for axis in (range(x.dim()) if axes is None else axes)]
    if len(sizes) != len(places) or min(sizes, default=0) < 0:
        raise malformed(f"{node} has the sizes {sizes} for {len(places)} axes")
    changed = {place: size for place, size in zip(places, sizes, strict=True) if x.shape[place] != size}
    node.keep_rows_apart(x, changed, "adds or leaves out rows")
    require_room(node, [changed.get(place, size) for place, size in enumerate(x.shape)])
    for place, size in changed.items():
        missing = size - int(x.shape[place])
        if missing < 0:
            x = x.narrow(place, -missing // 2, size)
        else:
            flat = [0, 0] * (x.dim() - 1 - place) + [missing // 2, missing - missing // 2]
            x = functional.pad(x, flat)
    return x
