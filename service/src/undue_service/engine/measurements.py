"""The costs m_t of a test row whose change is estimated, as functions of the model's outputs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from .losses import Loss

Measure = Callable[[Loss, Tensor, Tensor], Tensor]
"""(loss, outputs (B, C), targets) → m, (B,)."""


def loss(kind: Loss, f: Tensor, y: Tensor) -> Tensor:
    """Return the loss itself."""
    return kind.losses(f, y)


MEASUREMENTS: Mapping[str, Measure] = MappingProxyType({"loss": loss})
