"""Scaled dot product attention, composed of products and a softmax: torch's fused kernels have no second derivative."""

import math
from dataclasses import dataclass

import torch

from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Node, as_type
from undue_service.models.refusals import malformed, unsupported

_RAW, _CAPPED, _BIASED, _PROBABILITIES = range(4)
"""What `qk_matmul_output_mode` asks for."""


@dataclass(frozen=True)
class _Keys:
    """Which keys there are, and which of them a query may see by its place."""

    total: int
    offset: int | torch.Tensor
    """Keys that come before the first query: a number, or one a row (rows,)."""
    lengths: torch.Tensor | None
    """How many keys of each row are no padding, (rows,); None: all."""


def attention(node: Node) -> tuple[torch.Tensor, ...]:
    """Y = softmax(scale Q Kᵀ, capped, + mask) V per head (Vaswani et al. 2017); then the keys, the values, Q Kᵀ.

    Q (rows, heads, L, E), K (rows, heads, S, E), V (rows, heads, S, F), or with the heads packed into the last axis;
    fewer heads of K and V are shared by equal runs of Q's. A query that sees no key gives 0. Since opset 24
    `nonpad_kv_seqlen`, since 25 windows.
    """
    q, k, v = (_in_heads(node, i, "q_num_heads" if i == 0 else "kv_num_heads") for i in range(3))
    is_packed = node.tensor(0).dim() == 3
    mask, past_key, past_value = node.optional(3), node.optional(4), node.optional(5)
    lengths = node.optional(6)
    if (past_key is None) != (past_value is None) or (past_key is not None and lengths is not None):
        raise malformed(f"{node} has one of past_key and past_value, or both and nonpad_kv_seqlen")
    offset: int | torch.Tensor = 0
    if past_key is not None and past_value is not None:
        offset = int(past_key.shape[2])
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    elif lengths is not None:
        offset = lengths.reshape(-1) - int(q.shape[2])
    keys = _Keys(int(k.shape[2]), offset, None if lengths is None else lengths.reshape(-1))
    scale = _root_scale(_scale(node, q), q)
    scores = torch.matmul(q * scale, _shared(node, q, k).transpose(-1, -2) * scale)
    cap = float(node.attribute("softcap", 0.0))
    capped = cap * torch.tanh(scores / cap) if cap > 0 else scores
    bias = _bias(node, q, mask, keys)
    biased = capped if bias is None else capped + bias
    probabilities = as_type(_softmax(node, biased, bias), q.dtype)
    y = torch.matmul(probabilities, _shared(node, q, v))
    y = y.transpose(1, 2).flatten(2) if is_packed else y
    if not any(node.proto.output[1:]):
        return (y,)
    return y, k, v, _inspected(node, scores, capped, biased, probabilities)


def flex_attention(node: Node) -> torch.Tensor:
    """Y = prob_mod(softmax(score_mod(scale Q Kᵀ))) V per head, the two graphs optional (ai.onnx.preview-1).

    Q, K and V as four axes. Scores and probabilities are of the type `softmax_precision`, float32 at least.
    """
    q, k, v = (node.tensor(index) for index in range(3))
    if not q.dim() == k.dim() == v.dim() == 4:
        raise malformed(f"{node} attends to values of rank {q.dim()}, {k.dim()} and {v.dim()}, not 4")
    for value in (q, k, v):
        node.keep_rows_apart(value, (1, 2, 3), "attends to other rows")
    precision = int(node.attribute("softmax_precision", 0))
    kind = torch_type(precision, f"{node} has the softmax_precision") if precision else None
    kind = kind or torch.promote_types(q.dtype, torch.float32)
    scale = _root_scale(_scale(node, q), q)
    scores = as_type(torch.matmul(q * scale, _shared(node, q, k).transpose(-1, -2) * scale), kind)
    probabilities = torch.softmax(_modified(node, "score_mod", scores), -1)
    probabilities = _modified(node, "prob_mod", probabilities)
    return as_type(torch.matmul(probabilities, as_type(_shared(node, q, v), kind)), v.dtype)


def _modified(node: Node, name: str, x: torch.Tensor) -> torch.Tensor:
    if all(attribute.name != name for attribute in node.proto.attribute):
        return x
    found = node.graph(name).run([x])
    y = found[0] if len(found) == 1 else None
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or y.dtype != x.dtype:
        raise malformed(f"{node} has a {name} that does not keep the shape and type of what it takes")
    return y


def _inspected(
    node: Node, scores: torch.Tensor, capped: torch.Tensor, biased: torch.Tensor, probabilities: torch.Tensor
) -> torch.Tensor:
    mode = int(node.attribute("qk_matmul_output_mode", _RAW))
    by_mode = {_RAW: scores, _CAPPED: capped, _BIASED: biased, _PROBABILITIES: probabilities}
    if mode not in by_mode:
        raise malformed(f"{node} has the qk_matmul_output_mode {mode}")
    asked = len(node.proto.output) > 3 and bool(node.proto.output[3])
    if asked and mode == _RAW and capped is not scores:
        raise unsupported(f"{node} gives Q Kᵀ before its softcap, which is read in two ways; take mode 1 instead")
    return by_mode[mode]


def _in_heads(node: Node, index: int, heads: str) -> torch.Tensor:
    """Return an input as (rows, heads, length, size)."""
    x = node.tensor(index)
    node.keep_rows_apart(x, range(1, x.dim()), "attends to other rows")
    if x.dim() == 4:
        return x
    count = int(node.attribute(heads, 0))
    if x.dim() != 3 or count < 1 or x.shape[-1] % count:
        raise malformed(f"{node} divides a value of {tuple(x.shape)[1:]} into {count} heads")
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _shared(node: Node, q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return keys or values once for each head of the queries."""
    heads, own = int(q.shape[1]), int(x.shape[1])
    if heads == own:
        return x
    if own < 1 or heads % own:
        raise malformed(f"{node} shares {own} heads among {heads}")
    return x.repeat_interleave(heads // own, 1)


def _scale(node: Node, q: torch.Tensor) -> float:
    scale = float(node.attribute("scale", 0.0)) or 1 / math.sqrt(int(q.shape[-1]))
    if scale < 0:
        raise unsupported(f"{node} has the scale {scale}; a positive one is supported")
    return scale


def _root_scale(scale: float, q: torch.Tensor) -> float:
    """Return √scale as the type of the queries holds it; both factors of the product are multiplied by it."""
    return math.sqrt(scale) if q.dtype.itemsize >= 4 else float(torch.tensor(math.sqrt(scale), dtype=q.dtype))


def _bias(node: Node, q: torch.Tensor, mask: torch.Tensor | None, keys: _Keys) -> torch.Tensor | None:
    """Return what is added to the scores, −∞ where a query may not see a key; None for nothing."""
    allowed = _allowed_by_place(node, q, keys)
    if mask is None and allowed is None:
        return None
    bias = q.new_zeros(())
    if mask is not None:
        node.keep_rows_apart(mask, range(1 if mask.dim() == 4 else 0, mask.dim()), "takes the rows for heads or places")
        missing = keys.total - int(mask.shape[-1])
        if missing < 0 or not (mask.dtype == torch.bool or mask.is_floating_point()):
            raise malformed(f"{node} has a mask of {mask.dtype} over {tuple(mask.shape)} for {keys.total} keys")
        if mask.dtype == torch.bool:
            mask = _as_bias(mask, q)
        bias = torch.nn.functional.pad(mask, (0, missing), value=-math.inf) if missing else mask
    return bias if allowed is None else bias + _as_bias(allowed, q)


def _as_bias(allowed: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, -math.inf)


def _allowed_by_place(node: Node, q: torch.Tensor, keys: _Keys) -> torch.Tensor | None:
    """Return which keys each query sees by their places, (L, S) or (rows, 1, L, S); None: all."""
    left, right = int(node.attribute("left_window_size", -1)), int(node.attribute("right_window_size", -1))
    causal = bool(node.attribute("is_causal", 0))
    if min(left, right) < -1:
        raise malformed(f"{node} has the windows {left} and {right}")
    key = torch.arange(keys.total, device=q.device)
    allowed = None
    if causal or max(left, right) >= 0:
        query = torch.arange(int(q.shape[2]), device=q.device)[:, None]
        offset = keys.offset.reshape(-1, 1, 1, 1) if isinstance(keys.offset, torch.Tensor) else keys.offset
        ahead = key - (query + offset)
        allowed = torch.ones_like(ahead, dtype=torch.bool)
        for is_bounded, within in ((causal, ahead <= 0), (left >= 0, -ahead <= left), (right >= 0, ahead <= right)):
            allowed = allowed & within if is_bounded else allowed
    if keys.lengths is not None:
        real = key < keys.lengths.reshape(-1, 1, 1, 1)
        allowed = real if allowed is None else allowed & real
    return allowed


def _softmax(node: Node, scores: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the softmax over the keys, 0 for a query that sees none."""
    precision = int(node.attribute("softmax_precision", 0))
    wide = as_type(scores, torch_type(precision, f"{node} has the softmax_precision")) if precision else scores
    if bias is None:
        return torch.softmax(wide, -1)
    sees_none = (bias == -math.inf).all(-1, keepdim=True)
    return torch.softmax(wide.masked_fill(sees_none, 0.0), -1).masked_fill(sees_none, 0.0)
