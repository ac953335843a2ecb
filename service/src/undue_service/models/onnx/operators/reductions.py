"""Reductions over axes of one row."""

from collections.abc import Callable

import torch

from undue_service.models.onnx.values import Node, Operator


def _reduction(compute: Callable[..., torch.Tensor], axes_are_input_since: int) -> Operator:
    def reduce(node: Node) -> torch.Tensor:
        x = node.tensor(0)
        given = node.axes_since(axes_are_input_since, 1)
        if not given and node.attribute("noop_with_empty_axes", 0):
            return x
        axes = [node.axis(axis, x.dim()) for axis in given] if given else list(range(x.dim()))
        node.keep_rows_apart(x, axes, "reduces over the rows")
        return compute(x, axes, keepdim=bool(node.attribute("keepdims", 1))) if axes else x

    return reduce


reduce_mean = _reduction(torch.mean, 18)
reduce_sum = _reduction(torch.sum, 13)
reduce_max = _reduction(torch.amax, 18)
reduce_min = _reduction(torch.amin, 18)
