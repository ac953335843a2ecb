"""Operators on the bits of integers."""

from collections.abc import Callable

import torch

from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Node, Operator
from undue_service.models.refusals import malformed, quoted

from .unsigned import bits, modular


def _of_bits(compute: Callable[..., torch.Tensor], operands: int) -> Operator:
    of_any = modular(compute)

    def operator(node: Node) -> torch.Tensor:
        return of_any(*(node.tensor(index) for index in range(operands)))

    return operator


bitwise_and, bitwise_or = _of_bits(torch.bitwise_and, 2), _of_bits(torch.bitwise_or, 2)
bitwise_xor, bitwise_not = _of_bits(torch.bitwise_xor, 2), _of_bits(torch.bitwise_not, 1)


def bit_shift(node: Node) -> torch.Tensor:
    """Y = A moved by B bits to the LEFT or the RIGHT; a sign is copied to the right.

    An amount that is negative or not below the width leaves nothing but copies of the sign (BitShift-28; undefined
    before).
    """
    direction = node.text("direction", "")
    if direction not in ("LEFT", "RIGHT"):
        raise malformed(f"{node} shifts in the direction {quoted(direction)}")
    given, amount = torch.broadcast_tensors(node.tensor(0), bits(node.tensor(1)))
    x = bits(given)
    width = torch.iinfo(x.dtype).bits
    has_sign = given.dtype.is_signed
    inside = (amount >= 0) & (amount < width)
    shift = torch.where(inside, amount, 0)
    if direction == "LEFT":
        return torch.where(inside, x << shift, 0).to(x.dtype).view(given.dtype)
    moved = x >> shift
    if given.dtype != x.dtype:  # no copies of the top bit, which is no sign
        kept = ~(torch.tensor(-1, dtype=x.dtype, device=x.device) << (width - shift))
        moved = torch.where(shift > 0, moved & kept, moved)
    rest = torch.where(x < 0, -1, 0).to(x.dtype) if has_sign else torch.zeros_like(x)
    return torch.where(inside, moved, rest).view(given.dtype)


def bit_cast(node: Node) -> torch.Tensor:
    """Y = the bits of X, little endian, read as another type of the same width."""
    x, wanted = node.tensor(0), torch_type(int(node.attribute("to", 0)), f"{node} reads bits as")
    if x.dtype.itemsize != wanted.itemsize:
        raise malformed(f"{node} reads {x.dtype.itemsize} bytes an element as {wanted.itemsize}")
    return x.detach().view(wanted)
