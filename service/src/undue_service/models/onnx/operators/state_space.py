"""Sequence mixing by a running state: linear attention, and the causal convolution that stands before it."""

import math

import torch
from torch.nn import functional

from undue_service.models.limits import MAX_STEPS, too_large
from undue_service.models.onnx.values import Node, as_type
from undue_service.models.refusals import malformed, quoted

_RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}
"""For each update rule, whether it decays and whether it corrects."""
_NODES_PER_STEP = 12


def linear_attention(node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Y = scale qₜᵀ Sₜ, Sₜ = exp(gₜ) Sₜ₋₁ + kₜ ⊗ uₜ per head, uₜ = vₜ or βₜ (vₜ − exp(gₜ) Sₜ₋₁ᵀ kₜ); then the last S.

    Query (rows, T, heads · dₖ), key and value with the heads of the state; decay g (rows, T, heads or heads · dₖ) in
    `gated` rules, β (rows, T, heads or 1) in `delta` rules (Yang et al. 2024). Unrolled over T, in float32 or wider.
    """
    rule, chunks = node.text("update_rule", "gated_delta"), (node.optional(4), node.optional(5))
    if rule not in _RULES or tuple(value is not None for value in chunks) != _RULES[rule]:
        raise malformed(f"{node} has the update_rule {quoted(rule)}, and decay or beta do not go with it")
    heads, own = int(node.attribute("q_num_heads", 0)), int(node.attribute("kv_num_heads", 0))
    if own < 1 or heads < 1 or heads % own:
        raise malformed(f"{node} shares {own} heads among {heads}")
    kind = torch.promote_types(node.tensor(0).dtype, torch.float32)
    q, k, v = (as_type(_in_heads(node, i, heads if i == 0 else own), kind) for i in range(3))
    decay, beta = (None if value is None else as_type(value, kind) for value in chunks)
    steps, size = int(q.shape[1]), int(k.shape[-1])
    if steps * _NODES_PER_STEP > MAX_STEPS:
        raise too_large(f"the number of operations that {node} unrolls to", steps * _NODES_PER_STEP, MAX_STEPS)
    decay = None if decay is None else torch.exp(_per_head(node, decay, own, size)).unsqueeze(-1)
    beta = None if beta is None else _per_head(node, beta, own, 0)
    scale = float(node.attribute("scale", 0.0)) or 1 / math.sqrt(size)
    past = node.optional(3)
    state = q.new_zeros(q.shape[0], own, size, int(v.shape[-1])) if past is None else as_type(past, kind)
    outputs = []
    for t in range(steps):
        update = v[:, t]
        state = state if decay is None else state * decay[:, t]
        if beta is not None:
            update = beta[:, t] * (update - torch.matmul(k[:, t].unsqueeze(-2), state).squeeze(-2))
        state = state + k[:, t].unsqueeze(-1) * update.unsqueeze(-2)
        shared = state.repeat_interleave(heads // own, 1) if heads != own else state
        outputs.append(torch.matmul(q[:, t].unsqueeze(-2), shared).squeeze(-2) * scale)
    given = node.tensor(0).dtype
    y = as_type(torch.stack(outputs, 1).flatten(2), given)
    return y, as_type(state, given if past is None else past.dtype)


def causal_convolution(node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Y[row, c, t] = Σⱼ W[c, 0, j] X[row, c, t + j − k + 1] + B[c], then `silu` if asked; and the last k − 1 of X.

    X (rows, channels, length), W (channels, 1, k), B (channels) optional; before X comes `past_state`, or nothing.
    """
    x, weight, bias, past = node.tensor(0), node.tensor(1), node.optional(2), node.optional(3)
    activation = node.text("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise malformed(f"{node} has the activation {quoted(activation)}")
    if x.dim() != 3 or weight.dim() != 3 or tuple(weight.shape[:2]) != (x.shape[1], 1):
        raise malformed(f"{node} reads {tuple(x.shape)[1:]} by a weight of {tuple(weight.shape)}")
    node.keep_rows_apart(x, (1, 2), "slides over the rows")
    before = int(weight.shape[2]) - 1
    padded = functional.pad(x, (before, 0)) if past is None else torch.cat((past, x), 2)
    y = functional.conv1d(padded, weight, bias, groups=int(x.shape[1]))
    return y if activation == "none" else functional.silu(y), padded[..., int(padded.shape[2]) - before :]


def _in_heads(node: Node, index: int, heads: int) -> torch.Tensor:
    """Return an input as (rows, T, heads, size)."""
    x = node.tensor(index)
    if x.dim() != 3 or x.shape[-1] % heads:
        raise malformed(f"{node} divides a value of {tuple(x.shape)[1:]} into {heads} heads")
    node.keep_rows_apart(x, (1, 2), "attends to other rows")
    return x.unflatten(-1, (heads, -1))


def _per_head(node: Node, x: torch.Tensor, heads: int, size: int) -> torch.Tensor:
    """Return decay or β as (rows, T, heads or 1, size or 1)."""
    node.keep_rows_apart(x, (1, 2), "attends to other rows")
    last = int(x.shape[-1])
    if size and last == heads * size and last != heads:
        return x.unflatten(-1, (heads, size))
    if last != heads and not (last == 1 and not size):
        raise malformed(f"{node} has {last} numbers a step for {heads} heads")
    return x.unsqueeze(-1)
