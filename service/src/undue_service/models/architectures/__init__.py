"""Modules that a file of weights may be loaded into: those built in, and those that an operator has installed."""

from .opening import open_architecture

__all__ = ["open_architecture"]
