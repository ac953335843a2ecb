"""What a program's parameters are, by the nodes that use them."""

from collections.abc import Iterable

import torch

from undue_service.domain.reports import ParameterUse

from .parameters import ParameterSpace
from .program import Program
from .taps import Taps, find_taps
from .taps.recognise import CONVOLUTIONS, NORMALISATIONS
from .taps.uses import Broadcast, Convolution, Embedding, Use


def parameter_uses(program: Program) -> dict[str, tuple[ParameterUse, ...]]:
    """Return how each parameter is used, in alphabetical order; `other` where a use of it is not understood.

    A bias that belongs to one weight is used as that is. The gradients of what is `other` are taken row by row.
    """
    space = ParameterSpace(program)
    taps: Taps = find_taps(program, space, torch.zeros(space.dim))
    found: dict[str, tuple[ParameterUse, ...]] = {}
    for tap in taps.taps:
        for name in tap.block.names:
            found[name] = _kinds(tap.uses)
    return found | dict.fromkeys(taps.rest, ("other",))


def _kinds(uses: Iterable[Use]) -> tuple[ParameterUse, ...]:
    return tuple(sorted({_kind(use) for use in uses})) or ("other",)


def _kind(use: Use) -> ParameterUse:
    if isinstance(use, Convolution):
        return "convolution"
    if isinstance(use, Embedding):
        return "embedding"
    if not isinstance(use, Broadcast):
        return "linear"
    if use.node.target in NORMALISATIONS:
        return "normalisation"
    return "convolution" if use.node.target in CONVOLUTIONS else "elementwise"
