"""Fourier transforms, windows and mel filters. A complex number is a last axis of two: its real and imaginary part."""

import math
from collections.abc import Callable

import torch

from undue_service.models.limits import MAX_ROW_ELEMENTS, too_large
from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Node, Operator
from undue_service.models.refusals import malformed, unsupported


def dft(node: Node) -> torch.Tensor:
    """Y[…, k] = Σₙ exp(−2πi k n / N) X[…, n] along an axis; `inverse` with +2πi, over N.

    The axis is an attribute before opset 20, 1 where it is missing, and an input from then on, −2 where it is missing.
    X is cut or filled with zeros to N = `dft_length`. `onesided` gives k up to N/2 of real X; inverse, it takes them
    and gives real numbers.
    """
    x = node.tensor(0)
    inverse, onesided = bool(node.attribute("inverse", 0)), bool(node.attribute("onesided", 0))
    given = node.fixed(2)[0] if node.value(2) is not None else -2
    named = int(node.attribute("axis", 1)) if node.opset < 20 else given
    axis = node.axis(named, x.dim())
    if x.dim() < 2 or axis == x.dim() - 1 or not x.is_floating_point():
        raise malformed(
            f"{node} transforms axis {named} of {x.dtype} of rank {x.dim()}; the last is of complex numbers"
        )
    node.keep_rows_apart(x, [axis], "transforms along the rows")
    size = int(x.shape[axis])
    length = node.fixed(1)[0] if node.value(1) is not None else 2 * (size - 1) if inverse and onesided else size
    if not 1 <= length <= MAX_ROW_ELEMENTS:
        raise malformed(f"{node} has the dft_length {length}")
    numbers = _complex(node, x)
    if onesided and inverse == (x.shape[-1] == 1):
        raise malformed(f"{node} is onesided of {'real' if inverse else 'complex'} numbers")
    if inverse and onesided:
        return torch.fft.irfft(numbers, length, axis).unsqueeze(-1)
    return _transformed(numbers, length, axis, inverse, onesided)


def stft(node: Node) -> torch.Tensor:
    """Y[row, f, k] = the transform of `frame_length` elements of X from f · `frame_step` on, times the window.

    X (rows, length, 1 or 2); Y (rows, frames, bins, 2), with the bins up to half the length where `onesided`.
    """
    x, window = node.tensor(0), node.optional(2)
    x = x.unsqueeze(-1) if x.dim() == 2 else x
    if x.dim() != 3:
        raise malformed(f"{node} transforms a value of rank {x.dim()}")
    node.keep_rows_apart(x, (1, 2), "transforms along the rows")
    step, total = node.fixed(1)[0], int(x.shape[1])
    whole = total if window is None else int(window.shape[0])
    length = node.fixed(3)[0] if node.value(3) is not None else whole
    onesided = bool(node.attribute("onesided", 1))
    if step < 1 or not 1 <= length <= total or (onesided and x.shape[-1] != 1):
        raise malformed(f"{node} takes frames of {length} in steps of {step} of {tuple(x.shape)[1:]}")
    if window is not None and tuple(window.shape) != (length,):
        raise unsupported(f"{node} has a window of {tuple(window.shape)} for frames of {length}")
    frames = x.unfold(1, length, step).transpose(2, 3)
    frames = frames if window is None else frames * window[:, None]
    return _transformed(_complex(node, frames), length, 2, False, onesided)


def _complex(node: Node, x: torch.Tensor) -> torch.Tensor:
    """Return real numbers as such and pairs as complex numbers, without their axis."""
    if x.shape[-1] == 1:
        return x.squeeze(-1)
    if x.shape[-1] != 2:
        raise malformed(f"{node} transforms numbers of {x.shape[-1]} parts")
    return torch.complex(x[..., 0], x[..., 1])


def _transformed(x: torch.Tensor, length: int, axis: int, inverse: bool, onesided: bool) -> torch.Tensor:
    if inverse:
        return torch.view_as_real(torch.fft.ifft(x, length, axis))
    found = torch.fft.rfft(x, length, axis) if onesided else torch.fft.fft(x, length, axis)
    return torch.view_as_real(found)


def _window(formula: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    def compute(node: Node) -> torch.Tensor:
        size, kind = node.fixed(0)[0], torch_type(int(node.attribute("output_datatype", 1)), f"{node} is of")
        if size < 1:
            raise malformed(f"{node} has the size {size}")
        if size > MAX_ROW_ELEMENTS:
            raise too_large(f"the size of {node}", size, MAX_ROW_ELEMENTS)
        period = size if node.attribute("periodic", 1) else size - 1
        if not period:
            raise unsupported(f"{node} is a symmetric window of one element, which is 0 / 0")
        angle = torch.arange(size, dtype=torch.float64) * (2 * math.pi / period)
        return formula(angle).to(kind)

    return compute


hann_window = _window(lambda angle: 0.5 - 0.5 * torch.cos(angle))
hamming_window = _window(lambda angle: 25 / 46 - 21 / 46 * torch.cos(angle))
blackman_window = _window(lambda angle: 0.42 - 0.5 * torch.cos(angle) + 0.08 * torch.cos(2 * angle))


def mel_weight_matrix(node: Node) -> torch.Tensor:
    """Y (`dft_length`/2 + 1, `num_mel_bins`): triangles over the bins of a transform, even on the mel scale.

    mel = 2595 log₁₀(1 + hertz / 700); their corners are rounded down to bins.
    """
    (bins,), (length,), (rate,) = (node.fixed(index) for index in range(3))
    (low,), (high,) = node.floats(3), node.floats(4)
    rows = length // 2 + 1
    if bins < 1 or length < 1 or rate < 1 or not -700 < low <= high or bins * rows > MAX_ROW_ELEMENTS:
        raise malformed(f"{node} makes {bins} filters of {low} to {high} Hz over {rows} bins at {rate} Hz")
    begin, end = (2595 * math.log10(1 + hertz / 700) for hertz in (low, high))
    step = (end - begin) / (bins + 2)
    corners = [math.floor((length + 1) * 700 * (10 ** ((begin + step * i) / 2595) - 1) / rate) for i in range(bins + 2)]
    if not 0 <= corners[0] <= corners[-1] <= rows:
        raise malformed(f"{node} has filters up to bin {corners[-1]} of {rows}; half the rate is the highest frequency")
    weights = torch.zeros(rows, bins, dtype=torch.float64)
    for i, (left, centre, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        if centre < rows:
            weights[left : centre + 1, i] = torch.linspace(0, 1, centre - left + 1, dtype=torch.float64)
            weights[centre, i] = 1.0
        if right > centre:
            falling = torch.arange(right - centre, 0, -1, dtype=torch.float64) / (right - centre)
            weights[centre:right, i] = falling
    return weights.to(torch_type(int(node.attribute("output_datatype", 1)), f"{node} is of"))
