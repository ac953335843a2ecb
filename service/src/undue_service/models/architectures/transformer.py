"""A classifier of token sequences over a transformer encoder (Vaswani et al. 2017).

The parameters have the names and the meaning of `torch.nn.TransformerEncoder`'s. The attention is written out, so that
it can be differentiated as often as anybody likes whichever kernels torch would pick.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .built import Built

_ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu}


class Attention(nn.Module):
    """softmax(Q Kᵀ / √d) V a head, Q, K and V by one projection, as in torch.nn.MultiheadAttention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self._heads = heads

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (rows, length, dim); mask is (rows, 1, 1, length), added to the logits."""
        length, dim = x.shape[1:]
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.reshape(-1, length, 3, self._heads, dim // self._heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) / math.sqrt(dim // self._heads)
        mixed = (logits if mask is None else logits + mask).softmax(-1) @ v
        return self.out_proj(mixed.transpose(1, 2).reshape(-1, length, dim))


class EncoderLayer(nn.Module):
    """x + attention and x + feedforward, LayerNorm after each sum or before each part."""

    def __init__(self, dim: int, heads: int, feedforward: int, activation: str, norm: str) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self._activation = _ACTIVATIONS[activation]
        self._before = norm == "before"

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (rows, length, dim)."""
        if self._before:
            x = x + self.self_attn(self.norm1(x), mask)
            return x + self._hidden(self.norm2(x))
        x = self.norm1(x + self.self_attn(x, mask))
        return self.norm2(x + self._hidden(x))

    def _hidden(self, x: Tensor) -> Tensor:
        return self.linear2(self._activation(self.linear1(x)))


class Encoder(nn.Module):
    """Layers in a row, and a LayerNorm at the end where they have theirs before each part."""

    def __init__(self, dim: int, heads: int, layers: int, feedforward: int, activation: str, norm: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, feedforward, activation, norm) for _ in range(layers))
        self.norm = nn.LayerNorm(dim) if norm == "before" else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (rows, length, dim)."""
        for layer in self.layers:
            x = layer(x, mask)
        return x if self.norm is None else self.norm(x)


class Transformer(nn.Module):
    """tokens + positions → encoder → mean or first token → head."""

    def __init__(
        self, vocabulary: int, length: int, classes: int, dim: int, pooling: str, pad: int, encoder: Encoder
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(length, dim)
        self.encoder = encoder
        self.head = nn.Linear(dim, classes)
        self._first = pooling == "first"
        self._pad = pad

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the outputs, (rows, classes)."""
        x = self.tokens(tokens) + self.positions.weight
        if self._pad < 0:
            encoded = self.encoder(x, None)
            return self.head(encoded[:, 0] if self._first else encoded.mean(1))
        kept = (tokens != self._pad).to(x.dtype)
        # Not −∞: a row of nothing but padding would be NaN.
        encoded = self.encoder(x, ((1 - kept) * -1e9)[:, None, None, :])
        if self._first:
            return self.head(encoded[:, 0])
        weights = kept / kept.sum(1, keepdim=True).clamp(min=1)
        return self.head((encoded * weights[:, :, None]).sum(1))


def transformer(
    vocabulary: int,
    length: int,
    classes: int,
    dim: int,
    heads: int,
    layers: int,
    feedforward: int,
    activation: str,
    norm: str,
    pooling: str,
    pad: int,
) -> Built:
    """Return a classifier of rows of `length` tokens."""
    encoder = Encoder(dim, heads, layers, feedforward, activation, norm)
    module = Transformer(vocabulary, length, classes, dim, pooling, pad, encoder)
    return Built(module, {"tokens": torch.zeros(1, length, dtype=torch.int64)})
