"""Convolution in one, two and three dimensions."""

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed

from .spatial import window

_BY_RANK = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def conv(node: Node) -> torch.Tensor:
    """Y = X ⋆ W + B, cross-correlation: X (rows, C, *sizes), W (M, C/group, *kernel), B (M), which is optional."""
    return convolve(node, node.tensor(0), node.tensor(1), node.optional(2))


def convolve(node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return X ⋆ W + B by the attributes of a node.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSUPPORTED.
    """
    declared, groups = node.axes("kernel_shape"), int(node.attribute("group", 1))
    if declared is not None and declared != tuple(weight.shape[2:]):
        raise malformed(f"{node} declares the kernel {declared}, its weight has {tuple(weight.shape[2:])}")
    if x.dim() > 1 and (groups < 1 or weight.dim() < 3 or x.shape[1] != weight.shape[1] * groups):
        raise malformed(f"{node} reads {tuple(x.shape)[1:]} in {groups} groups by a weight of {tuple(weight.shape)}")
    sliding = window(node, x, [int(size) for size in weight.shape[2:]], convolves=True)
    padding = sliding.begins
    if sliding.begins != sliding.ends:
        x, padding = sliding.pad(x, 0.0), (0,) * len(padding)
    return _BY_RANK[len(padding)](x, weight, bias, sliding.strides, padding, sliding.dilations, groups)
