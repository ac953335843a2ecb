"""Resource names (AIP-122).

`models/{id}/versions/{n}`, `datasets/{id}/versions/{n}`, `jobs/{id}`, `uploads/{id}`, `indexes/{id}`, `aliases/{id}`.
"""

import re
import secrets
from typing import Literal

from .errors import InvalidArgument, Reason

Collection = Literal["models", "datasets"]

DEFAULT_TENANT = "default"

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_TOKEN = re.compile(r"[0-9a-f]{32}")


def new_token() -> str:
    """Return a fresh id for a job, an upload or an index."""
    return secrets.token_hex(16)


def check_id(field: str, value: str) -> str:
    """Return `value` if it can name a model or a data set.

    Raises:
        InvalidArgument: INVALID_NAME.
    """
    if not _ID.fullmatch(value):
        text = (
            f"{value!r} must be 1 to 63 lower-case letters, digits and hyphens, "
            "start with a letter and not end with a hyphen"
        )
        raise InvalidArgument.at(field, text, Reason.INVALID_NAME)
    return value


def parse_version(field: str, name: str, collection: Collection) -> tuple[str, int | None]:
    """Split `models/{id}` or `models/{id}/versions/{n}` into id and number; None stands for the newest version.

    Raises:
        InvalidArgument: INVALID_NAME.
    """
    match name.split("/"):
        case [head, resource] if head == collection and _ID.fullmatch(resource):
            return resource, None
        case [head, resource, "versions", number] if (
            head == collection and _ID.fullmatch(resource) and re.fullmatch(r"[1-9][0-9]{0,8}", number)
        ):
            return resource, int(number)
    one = collection.removesuffix("s")
    text = f"{name!r} must look like {collection}/{{{one}}} or {collection}/{{{one}}}/versions/{{number}}"
    raise InvalidArgument.at(field, text, Reason.INVALID_NAME)


def parse_token(field: str, name: str, collection: Literal["jobs", "uploads", "indexes"]) -> str:
    """Return the id in `jobs/{id}`, `uploads/{id}` or `indexes/{id}`.

    Raises:
        InvalidArgument: INVALID_NAME.
    """
    head, _, token = name.partition("/")
    if head != collection or not _TOKEN.fullmatch(token):
        text = f"{name!r} must look like {collection}/{{32 hexadecimal digits}}"
        raise InvalidArgument.at(field, text, Reason.INVALID_NAME)
    return token


def parse_alias(field: str, name: str) -> str:
    """Return the id in `aliases/{id}`.

    Raises:
        InvalidArgument: INVALID_NAME.
    """
    head, _, alias = name.partition("/")
    if head != "aliases":
        text = f"{name!r} must look like aliases/{{alias}}"
        raise InvalidArgument.at(field, text, Reason.INVALID_NAME)
    return check_id(field, alias)
