"""The costs m_t of a test row whose change is estimated, as functions of the model's outputs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from undue_service.domain.errors import InvalidArgument

from .losses import Loss

Measure = Callable[[Loss, Tensor, Tensor], Tensor]
"""(loss, outputs (B, C), targets) → m, (B,)."""


def loss(kind: Loss, f: Tensor, y: Tensor) -> Tensor:
    """Return the loss itself."""
    return kind.losses(f, y)


MEASUREMENTS: Mapping[str, Measure] = MappingProxyType({"loss": loss})


def measure(name: str, kind: Loss, f: Tensor, y: Tensor | None) -> Tensor:
    """Return the cost m_t, (B,), of the outputs f (B, C); without targets it is the one output itself.

    Raises:
        InvalidArgument: INVALID_FIELD for a measurement that does not exist.
    """
    if name not in MEASUREMENTS:
        there_are = ", ".join(MEASUREMENTS)
        raise InvalidArgument.at("measurement", f"there is no measurement {name!r}; there are {there_are}")
    return f[:, 0] if y is None else MEASUREMENTS[name](kind, f, y)
