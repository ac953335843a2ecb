"""Pages (AIP-158) and repeated requests (AIP-155)."""

import base64
import binascii
import hashlib
import re
import uuid
from typing import Protocol

from google.protobuf.message import Message

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.resources import RequestKey

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
MAX_PAGE_BYTES = 2 << 20
"""gRPC clients refuse messages beyond 4 MiB unless told otherwise; a page of results ends well before. Listings do so
where they are read from the store."""

_ID = re.compile("[a-z0-9-]{1,63}")


class PageRequest(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


def page_size(request: PageRequest) -> int:
    """Return how many items to send."""
    return min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def read_token(request: PageRequest, listing: str) -> int | None:
    """Return the position in a page token, or None for the first page.

    Raises:
        InvalidArgument: INVALID_PAGE_TOKEN.
    """
    text = _read(request, listing)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 19 and text == str(int(text)):
        return int(text)
    raise _not_ours()


def read_name_token(request: PageRequest, listing: str) -> str | None:
    """Return the id after which a page goes on, or None for the first page.

    Raises:
        InvalidArgument: INVALID_PAGE_TOKEN.
    """
    text = _read(request, listing)
    if text is None or _ID.fullmatch(text):
        return text
    raise _not_ours()


def write_token(position: int | str | None, listing: str) -> str:
    """Return the page token for a position or a name; empty for None."""
    return "" if position is None else base64.urlsafe_b64encode(f"{listing} {position}".encode()).decode()


def request_key(request: Message, identity: str) -> RequestKey | None:
    """Return what makes a repeated request recognisable; None where it has no id."""
    if not identity:
        return None
    fingerprint = hashlib.sha256(request.DESCRIPTOR.full_name.encode() + request.SerializeToString(deterministic=True))
    return RequestKey(str(uuid.UUID(identity)), fingerprint.hexdigest())


def _read(request: PageRequest, listing: str) -> str | None:
    """Return what a page token says, or None where there is none."""
    if not request.page_token:
        return None
    try:
        made_for, _, text = base64.urlsafe_b64decode(request.page_token.encode()).decode().rpartition(" ")
        if made_for == listing and request.page_token == write_token(text, listing):
            return text
    except (ValueError, binascii.Error):
        pass  # said below, like any other token that is not ours
    raise _not_ours()


def _not_ours() -> InvalidArgument:
    return InvalidArgument.at("page_token", "is not the next_page_token of this listing", Reason.INVALID_PAGE_TOKEN)
