"""Sums and products of everything before."""

from collections.abc import Callable

import torch

from undue_service.models.onnx.values import Node, Operator
from undue_service.models.refusals import malformed


def _cumulative(compute: Callable[..., torch.Tensor], neutral: int) -> Operator:
    def accumulate(node: Node) -> torch.Tensor:
        x, axes = node.tensor(0), node.fixed(1)
        if len(axes) != 1:
            raise malformed(f"{node} works along {len(axes)} axes, not one")
        axis = node.axis(axes[0], x.dim())
        node.keep_rows_apart(x, [axis], "accumulates over the rows")
        reverse, size = bool(node.attribute("reverse", 0)), int(x.shape[axis])
        x = x.flip(axis) if reverse else x
        if node.attribute("exclusive", 0) and size:
            first = torch.full_like(x.narrow(axis, 0, 1), neutral)
            x = torch.cat([first, x.narrow(axis, 0, size - 1)], axis)
        y = compute(x, axis, dtype=x.dtype)
        return y.flip(axis) if reverse else y

    return accumulate


cumulative_sum = _cumulative(torch.cumsum, 0)
"""Y_i = Σ X_j over j ≤ i, j < i with `exclusive`, from the end with `reverse`."""
cumulative_product = _cumulative(torch.cumprod, 1)
"""Y_i = Π X_j over j ≤ i, j < i with `exclusive`, from the end with `reverse`."""
