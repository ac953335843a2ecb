"""Rotary position embeddings (Su et al. 2021)."""

import torch

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed


def rotary_embedding(node: Node) -> torch.Tensor:
    """Y = each pair (a, b) of a head's elements rotated: (a cos − b sin, a sin + b cos), by its place in the sequence.

    X (rows, heads, L, E), or (rows, L, heads · E). A pair is element i and E/2 + i, or 2i and 2i + 1 where
    `interleaved`; beyond `rotary_embedding_dim` elements stay. The caches are tables by `position_ids` (rows, L), or
    without these (rows, L, pairs).
    """
    x, ids = node.tensor(0), node.optional(3)
    heads = int(node.attribute("num_heads", 0))
    node.keep_rows_apart(x, range(1, x.dim()), "rotates across the rows")
    if x.dim() == 3 and (heads < 1 or x.shape[-1] % heads):
        raise malformed(f"{node} divides a value of {tuple(x.shape)[1:]} into {heads} heads")
    if x.dim() not in (3, 4):
        raise malformed(f"{node} rotates a value of rank {x.dim()}")
    of_heads = x.unflatten(-1, (heads, -1)) if x.dim() == 3 else x.transpose(1, 2)
    size = int(of_heads.shape[-1])
    rotated = int(node.attribute("rotary_embedding_dim", 0)) or size
    if rotated > size or rotated % 2:
        raise malformed(f"{node} rotates {rotated} of {size} elements")
    cos, sin = (_at(node.tensor(index), ids).unsqueeze(2) for index in (1, 2))
    if int(cos.shape[-1]) * 2 != rotated or cos.shape != sin.shape:
        raise malformed(f"{node} has caches of {tuple(cos.shape)} and {tuple(sin.shape)} for {rotated} elements")
    turning, still = of_heads[..., :rotated], of_heads[..., rotated:]
    if node.attribute("interleaved", 0):
        a, b = turning.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    else:
        a, b = turning.chunk(2, -1)
        turned = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
    y = torch.cat((turned, still), -1) if rotated < size else turned
    return y.flatten(2) if x.dim() == 3 else y.transpose(1, 2)


def _at(cache: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    return cache if ids is None else torch.nn.functional.embedding(ids, cache)
