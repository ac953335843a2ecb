"""Where a resized axis reads, and with which weights (ONNX Resize-19)."""

from dataclasses import dataclass

import numpy as np

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted


@dataclass(frozen=True)
class Kernel:
    """Which elements around a place count how much."""

    is_cubic: bool
    antialias: bool
    """Widen the kernel where the axis is made shorter."""
    a: float
    """Of cubic convolution (Keys 1981, equation 4)."""
    exclude_outside: bool
    """Leave out what lies beyond the ends, instead of repeating the outermost element."""


@dataclass(frozen=True)
class Taps:
    """What each element of the output reads."""

    index: np.ndarray
    """(outputs, taps)."""
    weight: np.ndarray | None
    """(outputs, taps); None for one tap of weight 1."""


def source_positions(
    node: Node, transformation: str, size: int, scale: float, outputs: int, region: tuple[float, float]
) -> np.ndarray:
    """Return where on the axis of the input each element of the output lies, (outputs,).

    `scale · size`, which may have a fraction, is the length that the output stands for. In float32, as onnxruntime
    does it: a place that lies halfway must be rounded to the same side.
    """
    return _positions(node, transformation, size, np.float32(scale), outputs, region).astype(np.float64)


def _positions(
    node: Node, transformation: str, size: int, scale: np.float32, outputs: int, region: tuple[float, float]
) -> np.ndarray:
    y, length = np.arange(outputs, dtype=np.float32), scale * np.float32(size)
    half = np.float32(0.5)
    half_pixel = (y + half) / scale - half
    match transformation:
        case "half_pixel":
            return half_pixel
        case "half_pixel_symmetric":
            return half_pixel + size / 2 * (1 - outputs / length)
        case "pytorch_half_pixel":
            return half_pixel if outputs > 1 else np.zeros(outputs, np.float32)
        case "tf_half_pixel_for_nn":
            return (y + half) / scale
        case "asymmetric":
            return y / scale
        case "align_corners":
            return np.zeros(outputs, np.float32) if length == 1 else y * (size - 1) / (length - 1)
        case "tf_crop_and_resize":
            begin, end = region
            if outputs == 1:
                return np.full(1, (begin + end) * (size - 1) / 2, np.float32)
            return begin * (size - 1) + y * (end - begin) * (size - 1) / (outputs - 1)
    raise malformed(f"{node} has the coordinate_transformation_mode {quoted(transformation)}")


def nearest_taps(node: Node, position: np.ndarray, size: int, mode: str) -> Taps:
    """Return the one element that each place reads."""
    rounded = {
        "round_prefer_floor": np.ceil(position - 0.5),
        "round_prefer_ceil": np.floor(position + 0.5),
        "floor": np.floor(position),
        "ceil": np.ceil(position),
    }
    if mode not in rounded:
        raise malformed(f"{node} has the nearest_mode {quoted(mode)}; there are {', '.join(rounded)}")
    return Taps(np.clip(rounded[mode], 0, size - 1).astype(np.int64)[:, None], None)


def weighted_taps(position: np.ndarray, size: int, scale: float, kernel: Kernel) -> Taps:
    """Return the elements around each place with their weights, which sum to 1."""
    shrink = min(scale, 1.0) if kernel.antialias else 1.0
    reach = (2 if kernel.is_cubic else 1) / shrink
    first = int(np.floor(-reach)) + 1
    low = np.floor(position)
    share = (position - low)[:, None]
    steps = np.arange(first, 2 - first)[None, :]
    distance = np.abs(steps - share) * shrink
    weight = _cubic(distance, kernel.a) if kernel.is_cubic else np.clip(1 - distance, 0, None)
    index = low[:, None].astype(np.int64) + steps
    if kernel.exclude_outside:
        weight = np.where((index < 0) | (index >= size), 0.0, weight)
    return Taps(np.clip(index, 0, size - 1), weight / weight.sum(1, keepdims=True))


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
