"""Etags (AIP-154): what a caller sends back to act only on the resource that it has seen."""

import hashlib

from .errors import FailedPrecondition, Reason


def etag(*parts: object) -> str:
    """Return a digest of all that can change of a resource, as values with a faithful repr."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def check_etag(name: str, seen: str, current: str) -> None:
    """Compare the etag of a request, where it has one, with the resource's.

    Raises:
        FailedPrecondition: ETAG_MISMATCH.
    """
    if seen and seen != current:
        text = f"{name} has changed since its etag {seen[:64]!r} was read: read it again, then decide"
        raise FailedPrecondition(Reason.ETAG_MISMATCH, text, metadata={"etag": current})
