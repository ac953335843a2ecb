"""Linear taps: where a program uses its parameters, and the factors of every row's gradient that can be read there."""

from .capture import Capture, Tap, Taps
from .finding import find_taps
from .parts import Block, Dense, Lookup, Outer, Part, gram

__all__ = ["Block", "Capture", "Dense", "Lookup", "Outer", "Part", "Tap", "Taps", "find_taps", "gram"]
