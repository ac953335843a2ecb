"""SpamAssassin's public mails as rows of token ids: spam or not, with a fixed split. No text leaves this module."""

import torch
from tokenizers import Tokenizer
from torch import Tensor

from examples.sources import minilm, spam_assassin

from .caching import cached
from .data import Split

TOKENS = 64
"""Of a mail: its subject and how its text begins. 0 is padding."""


def mails(n: int, m: int) -> Split:
    """Return n training and m test mails, (64,) int64 token ids each; the label is 1 for spam, the test mails first."""
    held = cached("mails", {"words": minilm.PACKAGE.sha256, "tokens": TOKENS}, _tokenised)
    ids, spam = held["ids"], held["spam"]
    if n + m > len(ids):
        raise ValueError(f"there are {len(ids)} mails that differ, not {n + m}")
    return Split(ids[m : m + n], spam[m : m + n], ids[:m], spam[:m])


def _tokenised() -> dict[str, Tensor]:
    found = spam_assassin()
    tokenizer = Tokenizer.from_str(minilm.tokenizer())
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS, pad_id=0)
    texts = [f"{subject}\n{text}" for subject, text in zip(found.subjects, found.texts, strict=True)]
    ids = torch.tensor([one.ids for one in tokenizer.encode_batch(texts)])
    return {"ids": ids, "spam": torch.from_numpy(found.spam)}
