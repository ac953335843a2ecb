"""Normalisation over axes, in inference: by statistics that were frozen, or of one row."""

import torch
from torch.nn import functional

from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Node, as_type
from undue_service.models.refusals import malformed, unsupported


def batch_normalization(node: Node) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Y = (X − mean) / √(var + ε) · scale + B per channel (axis 1), mean and var as they were estimated in training.

    `training_mode` (since opset 14) takes them of the rows instead, and gives `momentum` · running + (1 − `momentum`) ·
    current as its other outputs; it is for a fixed number of rows only.
    """
    x, training = node.tensor(0), bool(node.attribute("training_mode", 0))
    if node.opset < 14 and any(node.proto.output[1:]):
        raise unsupported(f"{node} normalises over the rows, in training mode; call model.eval() before the export")
    if training:
        advice = "normalises over the rows, in training mode; call model.eval() before the export"
        node.keep_rows_apart(x, [0], advice)
    node.keep_rows_apart(x, range(1, x.dim()), "takes the rows for channels")
    weights = [node.tensor(index) for index in range(1, 5)]
    channels = x.shape[1] if x.dim() > 1 else 1
    if any(tuple(value.shape) != (channels,) for value in weights):
        raise malformed(f"{node} has {channels} channels and weights of another shape")
    epsilon, momentum = float(node.attribute("epsilon", 1e-5)), float(node.attribute("momentum", 0.9))
    # Scale and shift may be of another type than the statistics, since opset 15.
    kind = x.dtype if x.dtype.itemsize >= 4 else torch.float32
    scale, shift, mean, variance = (as_type(value, kind) for value in weights)
    if not training:
        y = functional.batch_norm(as_type(x, kind), mean, variance, scale, shift, False, 0.0, epsilon)
        return as_type(y, x.dtype)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    found_variance, found_mean = torch.var_mean(as_type(x, kind), axes, correction=0)
    y = functional.batch_norm(as_type(x, kind), None, None, scale, shift, True, 0.0, epsilon)
    running = ((mean, found_mean, weights[2]), (variance, found_variance, weights[3]))
    updated = (as_type(old * momentum + new * (1 - momentum), stored.dtype) for old, new, stored in running)
    return as_type(y, x.dtype), *updated


def layer_normalization(node: Node) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Y = (X − mean) / √(var + ε) · scale + B, mean and var over the axes from `axis` on; then mean, 1 / √(var + ε).

    Half-precision data are normalised in the type `stash_type`, in which the other two outputs are.
    """
    x, kind, axes, epsilon = _normalised(node)
    scale, shift = as_type(node.tensor(1), kind), node.optional(2)
    shift = None if shift is None else as_type(shift, kind)
    shape = [int(x.shape[axis]) for axis in axes]
    wide = as_type(x, kind)
    if list(scale.shape) == shape and (shift is None or list(shift.shape) == shape):
        y = functional.layer_norm(wide, shape, scale, shift, epsilon)
    else:
        y = functional.layer_norm(wide, shape, eps=epsilon) * scale
        y = y if shift is None else y + shift
    if not any(node.proto.output[1:]):
        return as_type(y, x.dtype)
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    return as_type(y, x.dtype), mean, torch.rsqrt(variance + epsilon)


def rms_normalization(node: Node) -> torch.Tensor:
    """Y = X / √(mean(X²) + ε) · scale, the mean over the axes from `axis` on (Zhang & Sennrich 2019)."""
    x, kind, axes, epsilon = _normalised(node)
    scale, shape = as_type(node.tensor(1), kind), [int(x.shape[axis]) for axis in axes]
    if list(scale.shape) == shape:
        return as_type(functional.rms_norm(as_type(x, kind), shape, scale, epsilon), x.dtype)
    return as_type(functional.rms_norm(as_type(x, kind), shape, eps=epsilon) * scale, x.dtype)


def instance_normalization(node: Node) -> torch.Tensor:
    """Y = (X − mean) / √(var + ε) · scale + B, mean and var over the spatial axes of one channel of one row."""
    x = node.tensor(0)
    _require_channels(node, x)
    return _in_groups(node, x, int(x.shape[1]), x.dtype)


def group_normalization(node: Node) -> torch.Tensor:
    """Y = (X − mean) / √(var + ε) · scale + B, mean and var over one group of the channels of one row and all space.

    Scale and B hold one number a channel, before opset 21 one a group.
    """
    x, groups = node.tensor(0), int(node.attribute("num_groups", 0))
    _require_channels(node, x)
    channels = int(x.shape[1])
    if groups < 1 or channels % groups:
        raise malformed(f"{node} divides {channels} channels into {groups} groups")
    return _in_groups(node, x, groups, _stashed(node, x) if node.opset >= 21 else x.dtype)


def mean_variance_normalization(node: Node) -> torch.Tensor:
    """Y = (X − mean) / (√var + 1e-9) over `axes`, which are 0, 2 and 3 unless they are given."""
    x = node.tensor(0)
    axes = [node.axis(axis, x.dim()) for axis in node.axes("axes") or (0, 2, 3)]
    node.keep_rows_apart(x, axes, "normalises across the rows")
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


def local_response_normalization(node: Node) -> torch.Tensor:
    """Y = X / (bias + α/size · Σ X²)^β, the sum over `size` channels around each (Krizhevsky et al. 2012)."""
    x, size = node.tensor(0), int(node.attribute("size", 0))
    _require_channels(node, x)
    if size < 1:
        raise malformed(f"{node} has the size {size}")
    alpha, beta, bias = (
        float(node.attribute(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    squares = (x * x).flatten(2).unsqueeze(1)
    padded = functional.pad(squares, (0, 0, (size - 1) // 2, size // 2))
    mean = functional.avg_pool2d(padded, (size, 1), 1).reshape(x.shape)
    return x / (bias + alpha * mean) ** beta


def _normalised(node: Node) -> tuple[torch.Tensor, torch.dtype, list[int], float]:
    x = node.tensor(0)
    axis = node.axis(int(node.attribute("axis", -1)), x.dim())
    axes = list(range(axis, x.dim()))
    node.keep_rows_apart(x, axes, "normalises across the rows")
    return x, _stashed(node, x), axes, float(node.attribute("epsilon", 1e-5))


def _stashed(node: Node, x: torch.Tensor) -> torch.dtype:
    """Return the type to normalise in: never a narrower one than that of the data."""
    stash = torch_type(int(node.attribute("stash_type", 1)), f"{node} normalises in")
    if not stash.is_floating_point:
        raise malformed(f"{node} normalises in {stash}")
    return stash if stash.itemsize > x.dtype.itemsize else x.dtype


def _require_channels(node: Node, x: torch.Tensor) -> None:
    if x.dim() < 3:
        raise malformed(f"{node} normalises a value of rank {x.dim()}; it needs rows, channels and one more axis")
    node.keep_rows_apart(x, range(1, x.dim()), "takes the rows for channels")


def _in_groups(node: Node, x: torch.Tensor, groups: int, kind: torch.dtype) -> torch.Tensor:
    channels = int(x.shape[1])
    scale, shift = node.tensor(1), node.tensor(2)
    if groups != channels and tuple(scale.shape) == tuple(shift.shape) == (groups,):
        scale, shift = (v[:, None].expand(groups, channels // groups).reshape(channels) for v in (scale, shift))
    if not tuple(scale.shape) == tuple(shift.shape) == (channels,):
        raise malformed(f"{node} has {channels} channels and a scale of shape {tuple(scale.shape)}")
    epsilon = float(node.attribute("epsilon", 1e-5))
    scale, shift = as_type(scale, kind), as_type(shift, kind)
    return as_type(torch.group_norm(as_type(x, kind), groups, scale, shift, epsilon), x.dtype)
