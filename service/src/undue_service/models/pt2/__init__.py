"""`.pt2` archives: read as data, written afresh, and only the fresh one is loaded."""

from .loading import open_pt2
from .sanitising import sanitise

__all__ = ["open_pt2", "sanitise"]
