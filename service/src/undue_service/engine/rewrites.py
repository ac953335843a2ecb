"""ATen operators that the engine replaces, because torch.func cannot transform them or does so row by row.

Each stands in with the arguments of the operator, so that a node needs a new target and nothing else.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

aten = torch.ops.aten


def _size(self: Tensor, dim: int) -> int:
    """Answer in Python: the operator would answer with the tensor that vmap wraps."""
    return self.shape[dim]


def _hard_sigmoid(self: Tensor) -> Tensor:
    """Return min(max(x/6 + 1/2, 0), 1); the operator has neither forward mode nor a second derivative."""
    return torch.clamp(self / 6 + 0.5, 0.0, 1.0)


def _frozen_batch_norm(
    input: Tensor,  # noqa: A002 (the operator's name)
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor]:
    """Normalise by frozen statistics; the operator of the core ATen dialect has no batching rule.

    Of its three results the second and third are empty, and no program can use them.
    """
    return (aten.batch_norm.default(input, weight, bias, running_mean, running_var, False, momentum, eps, False),)


def _embedding(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Look rows up; the padding's is a constant in every derivative: the operator sees to that in reverse mode only."""
    found = aten.embedding.default(weight, indices, -1, scale_grad_by_freq, sparse)
    if padding_idx < 0:
        return found
    return torch.where((indices == padding_idx).unsqueeze(-1), found.detach(), found)


REWRITTEN: Mapping[torch._ops.OpOverload, Callable] = {
    aten.sym_size.int: _size,
    aten.hardsigmoid.default: _hard_sigmoid,
    aten._native_batch_norm_legit_no_training.default: _frozen_batch_norm,
}
"""Operator to what is called in its place."""

RUN: Mapping[torch._ops.OpOverload, Callable] = {aten.embedding.default: _embedding}
"""Operator to what runs in its place, in a graph that keeps its node: others read what it looks up where."""
