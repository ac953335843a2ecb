"""The losses ℓ(f, y) of one row, as functions of the model's outputs f. Each is convex in f."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveName, ObjectiveSpec, check_temperature

from .activation import Activation

_LINEAR_ABOVE = 80
"""Where softplus is its argument exactly; at torch's default of 20 it is not yet."""


class Loss(Protocol):
    """A loss. f: (B, C) outputs before `activations`; y: (B,) or (B, C) targets as `targets` returns them."""

    activations: tuple[Activation, ...]
    """Final activations that the loss looks behind."""
    explains_label: bool
    """Whether a row without a target is explained by its predicted label; else by its output."""

    def check_outputs(self, outputs: int) -> None:
        """Raise InvalidArgument (OBJECTIVE_MISMATCH) where the loss does not fit a model with C = `outputs`."""

    def targets(self, raw: Tensor, outputs: int, index: Tensor) -> Tensor:
        """Return targets in canonical form, or raise InvalidArgument (TARGET_MISMATCH) naming the first bad row."""

    def losses(self, f: Tensor, y: Tensor) -> Tensor:
        """Return ℓ, (B,)."""

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:
        """Return ∂²ℓ/∂f², (B, C, C)."""

    def predictions(self, f: Tensor) -> Tensor:
        """Return the predicted label (B,) int64, or the outputs (B, C)."""


class CrossEntropy:
    """ℓ = −log softmax(f)_y, y ∈ {0, …, C−1}, C ≥ 2."""

    activations: tuple[Activation, ...] = ("softmax", "log_softmax")
    explains_label = True

    def check_outputs(self, outputs: int) -> None:
        """See Loss."""
        if outputs < 2:
            raise _misfit(
                "cross_entropy needs a model with at least two outputs; this one has one: use binary_logistic or "
                "squared_error"
            )

    def targets(self, raw: Tensor, outputs: int, index: Tensor) -> Tensor:
        """See Loss."""
        if raw.is_floating_point() or raw.is_complex() or raw.dim() != 1:
            raise _mistyped("cross_entropy needs one integer class label a row", raw)
        labels = raw.to(torch.int64)
        _check_rows((labels >= 0) & (labels < outputs), raw, index, f"a class label lies in 0…{outputs - 1}")
        return labels

    def losses(self, f: Tensor, y: Tensor) -> Tensor:
        """See Loss."""
        return -torch.log_softmax(f, dim=1).gather(1, y[:, None])[:, 0]

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - the seam's signature
        """Return diag(p) − p pᵀ."""
        p = torch.softmax(f, dim=1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def predictions(self, f: Tensor) -> Tensor:
        """See Loss."""
        return f.argmax(dim=1)


class BinaryLogistic:
    """ℓ = −log σ((2y−1) f), y ∈ {0, 1}, C = 1."""

    activations: tuple[Activation, ...] = ("sigmoid", "two_class_softmax", "opposite_scores")
    explains_label = True

    def check_outputs(self, outputs: int) -> None:
        """See Loss."""
        if outputs != 1:
            raise _misfit(
                f"binary_logistic needs a model with one output, a logit; this one has {outputs}: use cross_entropy"
            )

    def targets(self, raw: Tensor, outputs: int, index: Tensor) -> Tensor:  # noqa: ARG002 - the seam's signature
        """See Loss."""
        return _binary_targets("binary_logistic", raw, index)

    def losses(self, f: Tensor, y: Tensor) -> Tensor:
        """See Loss."""
        return functional.softplus((1 - 2 * y) * f[:, 0], threshold=_LINEAR_ABOVE)

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - the seam's signature
        """Return σ(1−σ)."""
        return (torch.sigmoid(f) * torch.sigmoid(-f))[:, :, None]

    def predictions(self, f: Tensor) -> Tensor:
        """See Loss."""
        return (f[:, 0] >= 0).to(torch.int64)


@dataclass(frozen=True)
class SmoothHinge:
    """ℓ = t log(1 + exp((1−s)/t)), s = (2y−1) f, y ∈ {0, 1}, C = 1 (Koh & Liang 2017, section 4.2).

    A surrogate of the hinge max(0, 1−s) with a second derivative: it lies above it by at most t log 2, where s = 1.
    """

    temperature: float
    """t > 0."""
    activations: ClassVar[tuple[Activation, ...]] = ("opposite_scores",)
    explains_label: ClassVar[bool] = True

    def check_outputs(self, outputs: int) -> None:
        """See Loss."""
        if outputs != 1:
            raise _misfit(f"smooth_hinge needs a model with one output, a margin; this one has {outputs}")

    def targets(self, raw: Tensor, outputs: int, index: Tensor) -> Tensor:  # noqa: ARG002 - the seam's signature
        """See Loss."""
        return _binary_targets("smooth_hinge", raw, index)

    def losses(self, f: Tensor, y: Tensor) -> Tensor:
        """See Loss."""
        return functional.softplus(1 - (2 * y - 1) * f[:, 0], beta=1 / self.temperature, threshold=_LINEAR_ABOVE)

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:
        """Return σ(z) σ(−z) / t, z = (1−s)/t."""
        z = (1 - (2 * y - 1) * f[:, 0]) / self.temperature
        return (torch.sigmoid(z) * torch.sigmoid(-z) / self.temperature)[:, None, None]

    def predictions(self, f: Tensor) -> Tensor:
        """See Loss."""
        return (f[:, 0] >= 0).to(torch.int64)


class SquaredError:
    """ℓ = ½‖f − y‖², summed over the outputs, so that ∂²ℓ/∂f² is the identity. Mean squared error is 2/C of it."""

    activations: tuple[Activation, ...] = ()
    explains_label = False

    def check_outputs(self, outputs: int) -> None:
        """See Loss."""

    def targets(self, raw: Tensor, outputs: int, index: Tensor) -> Tensor:
        """See Loss."""
        shape = tuple(raw.shape[1:])
        if raw.is_complex() or raw.dtype is torch.bool or (shape != (outputs,) and not (shape == () and outputs == 1)):
            raise _mistyped(f"squared_error needs {outputs} number(s) a row", raw)
        y = raw.reshape(len(raw), outputs)
        _check_rows(torch.isfinite(y).all(dim=1), raw, index, "a target is finite")
        return y

    def losses(self, f: Tensor, y: Tensor) -> Tensor:
        """See Loss."""
        return 0.5 * (f - y).square().sum(dim=1)

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - the seam's signature
        """Return the identity."""
        return torch.eye(f.shape[1], dtype=f.dtype, device=f.device).expand(len(f), -1, -1)

    def predictions(self, f: Tensor) -> Tensor:
        """See Loss."""
        return f


_MADE: Mapping[ObjectiveName, Callable[[ObjectiveSpec], Loss]] = MappingProxyType(
    {
        "cross_entropy": lambda _: CrossEntropy(),
        "binary_logistic": lambda _: BinaryLogistic(),
        "squared_error": lambda _: SquaredError(),
        "smooth_hinge": lambda spec: SmoothHinge(spec.temperature),
    }
)


def loss_of(spec: ObjectiveSpec) -> Loss:
    """Return the loss of an objective.

    Raises:
        InvalidArgument: INVALID_FIELD for a name that there is not, a temperature that the loss has not, or none where
            it needs one.
    """
    if spec.name not in _MADE:
        raise InvalidArgument.at("objective.name", f"there is no objective {spec.name!r}; there are {', '.join(_MADE)}")
    check_temperature(spec)
    return _MADE[spec.name](spec)


def _binary_targets(name: str, raw: Tensor, index: Tensor) -> Tensor:
    if raw.is_complex() or tuple(raw.shape[1:]) not in ((), (1,)):
        raise _mistyped(f"{name} needs one target of 0 or 1 a row", raw)
    flat = raw.reshape(len(raw))
    _check_rows((flat == 0) | (flat == 1), flat, index, "a target is 0 or 1")
    return flat.to(torch.int64)


def _misfit(text: str) -> InvalidArgument:
    return InvalidArgument.at("objective", text, Reason.OBJECTIVE_MISMATCH)


def _mistyped(needs: str, raw: Tensor) -> InvalidArgument:
    dtype = str(raw.dtype).removeprefix("torch.")
    return InvalidArgument.at(
        "targets", f"{needs}, but the targets are {dtype} of shape {tuple(raw.shape)}", Reason.TARGET_MISMATCH
    )


def _check_rows(good: Tensor, raw: Tensor, index: Tensor, rule: str) -> None:
    if bool(good.all()):
        return
    first = int((~good).nonzero()[0, 0])
    row, value = int(index[first]), raw[first].tolist()
    text = f"row {row} has the target {value}, but {rule}"
    error = InvalidArgument.at("targets", text, Reason.TARGET_MISMATCH)
    error.metadata.update(row=str(row), value=str(value))
    raise error
