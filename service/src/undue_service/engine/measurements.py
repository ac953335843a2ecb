"""The costs m_t of a test row whose change is estimated, as functions of the model's outputs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument

from .losses import Loss

Measure = Callable[[Loss, Tensor, Tensor], Tensor]
"""(loss, outputs (B, C), targets) → m, (B,)."""


def loss(kind: Loss, f: Tensor, y: Tensor) -> Tensor:
    """Return the loss itself."""
    return kind.losses(f, y)


def logit(kind: Loss, f: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001 - the seam's signature
    """Return −f_y, the explained class's logit with the sign of a cost; of one logit, −s f with s = 2y − 1.

    Adding a constant to all of a row's logits changes it but no probability: compare scores of one model, not of two.
    """
    return -_logit(f, y)


def margin(kind: Loss, f: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001 - the seam's signature
    """Return −(f_y − log Σ_{c≠y} exp f_c) = −log(p_y / (1 − p_y)) (Park et al. 2023, TRAK); of one logit, −s f.

    The loss is softplus of it. Where the model is sure, the loss saturates and its gradient vanishes; this one's stays.
    """
    own = _logit(f, y)
    if f.shape[1] == 1:
        return -own
    explained = torch.arange(f.shape[1], device=f.device) == y[:, None]
    return torch.logsumexp(f.masked_fill(explained, -torch.inf), dim=1) - own


MEASUREMENTS: Mapping[str, Measure] = MappingProxyType({"loss": loss, "logit": logit, "margin": margin})


def check_measurement(name: str, kind: Loss) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for a measurement that does not exist, or not for this loss."""
    if name not in MEASUREMENTS:
        there_are = ", ".join(MEASUREMENTS)
        raise InvalidArgument.at("measurement", f"there is no measurement {name!r}; there are {there_are}")
    if name != "loss" and not kind.explains_label:
        text = (
            f'{name!r} is the cost of a class, and the objective is a regression: pass measurement="loss"; without '
            "targets it explains the output itself"
        )
        raise InvalidArgument.at("measurement", text)


def measure(name: str, kind: Loss, f: Tensor, y: Tensor | None) -> Tensor:
    """Return the cost m_t, (B,), of the outputs f (B, C); without targets it is the one output itself.

    Raises:
        InvalidArgument: INVALID_FIELD for a measurement that does not exist, or not for this loss.
    """
    check_measurement(name, kind)
    return f[:, 0] if y is None else MEASUREMENTS[name](kind, f, y)


def _logit(f: Tensor, y: Tensor) -> Tensor:
    return (2 * y - 1) * f[:, 0] if f.shape[1] == 1 else f.gather(1, y[:, None])[:, 0]
