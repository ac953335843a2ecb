"""A number that may have been estimated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, and how far off it may be."""

    value: float
    standard_error: float = 0.0
    """0 where it is exact."""
