"""Architectures that an operator's packages bring. Their names alone: their code is for runners."""

from collections import Counter
from importlib.metadata import entry_points

GROUP = "undue.architectures"


def installed() -> dict[str, int]:
    """Return how many entry points have each name; none is loaded."""
    return dict(Counter(entry.name for entry in entry_points(group=GROUP)))
