"""Integers of 16, 32 and 64 bits without a sign, which torch stores and moves but does not compute with.

The bits are read as integers with a sign: sums, differences and products modulo 2ⁿ have the same bits, and turning the
top bit over makes the two orders the same.
"""

from collections.abc import Callable

import torch

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def is_wide(*tensors: torch.Tensor) -> bool:
    """Return whether any is of a type that torch does not compute with."""
    return any(tensor.dtype in _SIGNED for tensor in tensors)


def bits(x: torch.Tensor) -> torch.Tensor:
    """Return the same bits as integers with a sign; other types as they are."""
    return x.view(_SIGNED[x.dtype]) if x.dtype in _SIGNED else x


def ordered(x: torch.Tensor) -> torch.Tensor:
    """Return integers with a sign in the order of `x`; other types as they are."""
    return _turned(bits(x)) if x.dtype in _SIGNED else x


def _turned(x: torch.Tensor) -> torch.Tensor:
    return x ^ torch.iinfo(x.dtype).min


def modular(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a function of bits, such as a sum modulo 2ⁿ, for these types too."""

    def of_any(*tensors: torch.Tensor) -> torch.Tensor:
        if not is_wide(*tensors):
            return compute(*tensors)
        return compute(*map(bits, tensors)).view(tensors[0].dtype)

    return of_any


def choosing(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a function that returns one of its operands by their order, such as a maximum, for these types too."""

    def of_any(*tensors: torch.Tensor) -> torch.Tensor:
        if not is_wide(*tensors):
            return compute(*tensors)
        return _turned(compute(*map(ordered, tensors))).view(tensors[0].dtype)

    return of_any


def comparing(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a comparison for these types too."""

    def of_any(*tensors: torch.Tensor) -> torch.Tensor:
        return compute(*map(ordered, tensors))

    return of_any


def quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return ⌊a / b⌋ of two tensors of one of these types."""
    if a.dtype != torch.uint64:
        return torch.div(a.to(torch.int64), b.to(torch.int64), rounding_mode="floor").to(a.dtype)
    return _divided(a, b)[0]


def remainder(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a − b ⌊a / b⌋ of two tensors of one of these types."""
    if a.dtype != torch.uint64:
        return torch.remainder(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)
    return _divided(a, b)[1]


def _divided(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return quotient and remainder of 64 bits by division with a sign (Warren, Hacker's Delight, 2nd ed., §9-3).

    A divisor of 2⁶³ or more goes in at most once. With any other, ⌊⌊a/2⌋ / b⌋ · 2 is the quotient or one less.
    """
    x, y = torch.broadcast_tensors(bits(a), bits(b))
    halved = (x >> 1) & torch.iinfo(torch.int64).max
    is_large = y < 0
    whole = torch.where(is_large, 0, torch.div(halved, torch.where(is_large, 1, y), rounding_mode="floor") * 2)
    left = x - whole * y
    once_more = _turned(left) >= _turned(y)
    return (whole + once_more).view(a.dtype), torch.where(once_more, left - y, left).view(a.dtype)
