"""How a long computation says how far it has come, and is interrupted."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(stage, rows done, rows in total), called between blocks; whatever it raises ends the computation."""


def silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
