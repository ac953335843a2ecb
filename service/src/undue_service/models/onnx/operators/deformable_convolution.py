"""Convolution whose taps are moved by offsets that the model computes (Dai et al. 2017, Zhu et al. 2019)."""

import torch

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, unsupported

from .bilinear import linear_taps, sample
from .spatial import of_each_axis


def deform_conv(node: Node) -> torch.Tensor:
    """Y = Σ over the kernel of W · mask · X read between its elements at the tap's place + its offset, + B.

    X (rows, C, H, W), W (M, C/group, kH, kW), offset (rows, 2 offset_group kH kW, oH, oW) as (y, x) in turn, B (M)
    and mask (rows, offset_group kH kW, oH, oW) optional. Outside X is nothing. Over two axes only.
    """
    x, weight, offset, bias, mask = node.tensor(0), node.tensor(1), node.tensor(2), node.optional(3), node.optional(4)
    if x.dim() != 4 or weight.dim() != 4:
        raise unsupported(f"{node} slides over {x.dim() - 2} axes; supported are 2")
    for value in (x, offset) if mask is None else (x, offset, mask):
        node.keep_rows_apart(value, range(1, 4), "slides over the rows")
    groups, offset_groups = int(node.attribute("group", 1)), int(node.attribute("offset_group", 1))
    kernel, channels = tuple(int(size) for size in weight.shape[2:]), int(x.shape[1])
    taps, outputs = kernel[0] * kernel[1], tuple(int(size) for size in offset.shape[2:])
    strides, dilations = (of_each_axis(node, name, 2) for name in ("strides", "dilations"))
    pads = node.axes("pads") or (0,) * 4
    if groups < 1 or channels != weight.shape[1] * groups or offset_groups < 1 or channels % offset_groups:
        raise malformed(f"{node} has {channels} channels, {groups} groups and {offset_groups} groups of offsets")
    expected = [
        (int(size) + pads[i] + pads[i + 2] - d * (k - 1) - 1) // s + 1
        for i, (size, k, s, d) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True))
    ]
    if list(outputs) != expected or offset.shape[1] != 2 * offset_groups * taps:
        raise malformed(f"{node} has offsets of {tuple(offset.shape)[1:]} for windows of {expected}")
    moved = offset.reshape(-1, offset_groups, taps, 2, *outputs)
    positions = []
    for axis in range(2):
        steps = torch.arange(kernel[axis], device=x.device) * dilations[axis] - pads[axis]
        steps = steps[:, None].expand(kernel) if axis == 0 else steps[None, :].expand(kernel)
        starts = torch.arange(outputs[axis], device=x.device) * strides[axis]
        starts = starts[:, None] if axis == 0 else starts[None, :]
        base = steps.reshape(taps, 1, 1) + starts
        positions.append((moved[:, :, :, axis] + base.to(x.dtype)).flatten(0, 1))
    grouped = x.reshape(-1, channels // offset_groups, *x.shape[2:])
    read = sample(grouped, [linear_taps(position) for position in positions])
    read = read.reshape(-1, offset_groups, channels // offset_groups, taps, *outputs)
    if mask is not None:
        read = read * mask.reshape(-1, offset_groups, 1, taps, *outputs)
    columns = read.reshape(-1, groups, channels // groups * taps, outputs[0] * outputs[1])
    filters = weight.reshape(groups, -1, channels // groups * taps)
    y = torch.matmul(filters, columns).reshape(-1, int(weight.shape[0]), *outputs)
    return y if bias is None else y + bias.reshape(-1, 1, 1)
