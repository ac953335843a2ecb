"""Transposed convolution: the adjoint of a convolution, over one to three axes."""

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted, unsupported

from .spatial import MAX_SPATIAL, of_each_axis

_BY_RANK = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def conv_transpose(node: Node) -> torch.Tensor:
    """Y = Xᵀ of a convolution + B: X (rows, C, *sizes), W (C, M/group, *kernel), B (M), which is optional.

    Along each axis the full result has s (size − 1) + d (k − 1) + 1 elements; padding drops the outermost, and
    `output_padding` or an `output_shape` beyond it adds elements that only the bias reaches.
    """
    x, weight, bias = node.tensor(0), node.tensor(1), node.optional(2)
    rank, groups = weight.dim() - 2, int(node.attribute("group", 1))
    declared = node.axes("kernel_shape")
    if not 1 <= rank <= MAX_SPATIAL or x.dim() != rank + 2:
        raise unsupported(f"{node} slides over {x.dim() - 2} axes; supported are 1 to {MAX_SPATIAL}")
    node.keep_rows_apart(x, range(1, x.dim()), "slides over the rows")
    if declared is not None and declared != tuple(weight.shape[2:]):
        raise malformed(f"{node} declares the kernel {declared}, its weight has {tuple(weight.shape[2:])}")
    if groups < 1 or x.shape[1] != weight.shape[0] or weight.shape[0] % groups:
        raise malformed(f"{node} reads {tuple(x.shape)[1:]} in {groups} groups by a weight of {tuple(weight.shape)}")
    strides, dilations = (of_each_axis(node, name, rank) for name in ("strides", "dilations"))
    full = [
        (int(size) - 1) * stride + dilation * (int(k) - 1) + 1
        for size, k, stride, dilation in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
    ]
    begins, outputs = _kept(node, [int(size) for size in x.shape[2:]], full, strides)
    spread = _BY_RANK[rank](x, weight, None, strides, 0, 0, groups, dilations)
    ends = [out + begin - size for out, begin, size in zip(outputs, begins, full, strict=True)]
    flat = [amount for begin, end in reversed(list(zip(begins, ends, strict=True))) for amount in (-begin, end)]
    y = functional.pad(spread, flat) if any(flat) else spread
    return y if bias is None else y + bias.reshape(-1, *(1 for _ in range(rank)))


def _kept(node: Node, sizes: list[int], full: list[int], strides: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return, for each axis, how many elements of the full result are dropped at its beginning, and how many stay."""
    rank, auto_pad = len(sizes), node.text("auto_pad", "NOTSET")
    added, wanted = node.axes("output_padding") or (0,) * rank, node.axes("output_shape")
    if len(added) != rank or min(added) < 0:
        raise malformed(f"{node} has the output_padding {added} for {rank} axes")
    if wanted is not None:
        wanted = wanted[2:] if len(wanted) == rank + 2 else wanted
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(size * stride for size, stride in zip(sizes, strides, strict=True))
    if wanted is None:
        if auto_pad not in ("NOTSET", "VALID", ""):
            raise malformed(f"{node} has the auto_pad {quoted(auto_pad)}")
        pads = (node.axes("pads") if auto_pad != "VALID" else None) or (0,) * (2 * rank)
        if len(pads) != 2 * rank or min(pads) < 0:
            raise malformed(f"{node} has the pads {pads} for {rank} axes")
        begins = list(pads[:rank])
        outputs = [size + more - b - e for size, more, b, e in zip(full, added, begins, pads[rank:], strict=True)]
    else:
        if len(wanted) != rank:
            raise malformed(f"{node} has the output_shape {wanted} for {rank} axes")
        # Where more is wanted than there is, nothing is dropped, and the rest lies after the last element.
        totals = [max(0, size + more - out) for size, more, out in zip(full, added, wanted, strict=True)]
        begins = [total // 2 if auto_pad == "SAME_UPPER" else total - total // 2 for total in totals]
        outputs = list(wanted)
    if min(outputs) < 1:
        raise malformed(f"{node} has an output of {outputs}")
    return begins, outputs
