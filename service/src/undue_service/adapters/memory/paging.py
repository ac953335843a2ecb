"""Pages of what lies in memory."""

from collections.abc import Sequence
from typing import TypeVar

from undue_service.application.ports import Page

T = TypeVar("T")


def page(items: Sequence[tuple[int, T]], limit: int, before: int | None) -> Page[T]:
    """Page through numbered items in ascending order, newest first."""
    left = [item for item in reversed(items) if before is None or item[0] < before]
    shown = left[:limit]
    return Page(tuple(item for _, item in shown), shown[-1][0] if len(left) > limit else None)
