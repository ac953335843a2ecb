"""Pooling's way back: the largest elements at the places that they came from."""

import math

import torch

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, unsupported

from .spatial import of_each_axis


def max_unpool(node: Node) -> torch.Tensor:
    """Y = zeros with X at the flat indices that MaxPool gave, of the pooled size or of `output_shape`.

    The indices count over all rows and channels of a tensor of the pooled size; a larger `output_shape` adds zeros
    after its elements.
    """
    x, indices, kernel = node.tensor(0), node.tensor(1), node.axes("kernel_shape")
    if kernel is None or x.dim() != len(kernel) + 2:
        raise malformed(f"{node} has the kernel_shape {kernel} for a value of rank {x.dim()}")
    node.keep_rows_apart(x, range(x.dim()), "reads indices that count over all rows")
    rank = len(kernel)
    strides, pads = of_each_axis(node, "strides", rank), node.axes("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank or indices.shape != x.shape:
        raise malformed(f"{node} has the pads {pads} and indices of shape {tuple(indices.shape)}")
    pooled = [(int(size) - 1) * strides[i] - pads[i] - pads[i + rank] + kernel[i] for i, size in enumerate(x.shape[2:])]
    lead = [int(size) for size in x.shape[:2]]
    flat = x.new_zeros(math.prod(lead) * math.prod(pooled)).scatter(0, indices.reshape(-1).long(), x.reshape(-1))
    y = flat.reshape(*lead, *pooled)
    if node.value(2) is None:
        return y
    wanted = node.fixed(2)
    if (
        len(wanted) != x.dim()
        or list(wanted[:2]) != lead
        or any(w < p for w, p in zip(wanted[2:], pooled, strict=True))
    ):
        raise unsupported(f"{node} wants {wanted} from a pooled size of {pooled}; a larger one is supported")
    flat_pads = [
        amount for want, size in reversed(list(zip(wanted[2:], pooled, strict=True))) for amount in (0, want - size)
    ]
    return torch.nn.functional.pad(y, flat_pads)
