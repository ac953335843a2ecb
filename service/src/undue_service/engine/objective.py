"""What the model minimises, and what is measured of a test row: functions of θ and a batch."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from glob import escape

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import ParameterInfo
from undue_service.domain.specs import ObjectiveSpec

from .data import Batch
from .exported import InputSpec
from .head import LinearHead, find_head
from .lookups import find_lookups
from .losses import loss_of
from .measurements import measure
from .parameters import ParameterSpace, matching
from .program import Program
from .taps import Taps, find_taps


class Objective:
    """R(θ) = (1/n) Σ_i w_i ℓ_i(θ) + l2/2 · ‖mask ∘ θ‖², over the selected parameters θ of a program.

    Attributes:
        theta: the registered weights θ̂, (P,).
        l2: l2 · mask, (P,).
        l2_mask: 1 where the L2 term covers a parameter, (P,).
        loss: ℓ as a function of the outputs.
        taps: θ as blocks, and where the program uses each.
        row_numel: numbers that one row needs in a forward pass through which gradients in θ are taken.
        head: the linear head that θ is, where the outputs are linear in every selected parameter.
        output_activation: the softmax or sigmoid at the model's end that the loss looks behind, or how two outputs are
            made of the one score that it takes.
    """

    def __init__(self, program: Program, spec: ObjectiveSpec, parameters: Sequence[str] = ()) -> None:
        """Select parameters by fnmatch patterns; none means all.

        Raises:
            InvalidArgument: OBJECTIVE_MISMATCH where the loss does not fit the outputs, PARAMETERS_NOT_FOUND where a
                pattern matches nothing, INVALID_FIELD where l2 is not a finite number ≥ 0 or a temperature not one > 0.
        """
        if not math.isfinite(spec.l2) or spec.l2 < 0:
            raise InvalidArgument.at("objective.l2", f"l2 is a finite number ≥ 0, not {spec.l2}")
        self.spec = spec
        self.loss = loss_of(spec)
        self._whole = program
        endings = [one for one in program.endings if one in self.loss.activations]
        self.output_activation = endings[0] if endings else ""
        self.program = program.behind(endings[0]) if endings else program
        self.outputs_per_row = _outputs_per_row(self.program)
        self.loss.check_outputs(self.outputs_per_row)
        self.space = ParameterSpace(self.program, parameters)
        self.theta = self.space.flatten(self.program.parameters).detach()
        self.l2_mask = torch.ones_like(self.theta)
        for name in self._l2_excluded():
            if name in self.space.shapes:
                self.l2_mask[self.space.slice(name)] = 0
        self.l2 = spec.l2 * self.l2_mask
        self.row_numel = self.program.graph.row_numel(self.space.names)
        self.head: LinearHead | None = find_head(self.program, self.space)
        self.taps: Taps = find_taps(self.program, self.space, self.l2)
        self._lookups = find_lookups(self.program)

    def at(self, parameters: Mapping[str, Tensor]) -> "Objective":
        """Return the same objective at other weights.

        Args:
            parameters: a value of each of the program's parameters, by its name or by one that shares its memory.

        Raises:
            InvalidArgument: WEIGHTS_MISMATCH, naming the first parameter that is missing or has another shape.
        """
        program = self.program.at(parameters)
        moved = copy(self)
        moved._whole = self._whole.at(parameters)
        moved.program = program
        moved.theta = self.space.flatten(program.parameters).detach()
        moved.head = None if self.head is None else replace(self.head, program=program)
        moved.taps = replace(self.taps, program=program)
        moved._lookups = None if self._lookups is None else replace(self._lookups, program=program)
        return moved

    def in_double(self) -> "Objective":
        """Return the same objective in float64."""
        if self.program.dtype is torch.float64:
            return self
        program = self._whole.to(self.program.device, torch.float64)
        return Objective(program, self.spec, tuple(escape(name) for name in self.space.names))

    def place(self, batch: Batch) -> Batch:
        """Return a batch in canonical form: on the program's device, in its dtypes, targets checked.

        Raises:
            InvalidArgument: INPUT_MISMATCH or TARGET_MISMATCH, naming what does not fit; INVALID_FIELD for a weight
                that is not ≥ 0.
        """
        device, dtype = self.program.device, self.program.dtype
        inputs = {
            spec.name: _input(spec, batch, len(self.program.inputs)).to(device, spec.dtype)
            for spec in self.program.inputs
        }
        if self._lookups is not None:
            self._lookups.check(inputs, batch.index)
        targets = None
        if batch.targets is not None:
            if len(batch.targets) != len(batch.index):
                text = f"there are {len(batch.targets)} targets for {len(batch.index)} rows"
                raise InvalidArgument.at("targets", text, Reason.TARGET_MISMATCH)
            targets = self.targets(batch.targets, batch.index)
        weights = None if batch.weights is None else _weights(batch).to(device, dtype)
        return Batch(inputs, targets, weights, batch.index)

    def targets(self, raw: Tensor, index: Tensor) -> Tensor:
        """Return targets of the rows `index` (B,) in canonical form: on the program's device, checked.

        Raises:
            InvalidArgument: TARGET_MISMATCH naming the first row whose target does not fit.
        """
        targets = self.loss.targets(raw, self.outputs_per_row, index).to(self.program.device)
        is_number = targets.is_floating_point() or not self.loss.explains_label
        return targets.to(self.program.dtype) if is_number else targets

    def outputs(self, theta: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return what the loss receives, f (B, C): logits, or the regression's outputs."""
        f = self.program.forward(self.space.unflatten(theta), inputs)
        return f.reshape(f.shape[0], self.outputs_per_row)

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return ℓ_i(θ), (B,), of a placed batch; without weights and without the L2 term."""
        return self.loss.losses(self.outputs(theta, batch.inputs), batch.targets)

    def measurement(self, theta: Tensor, batch: Batch, name: str = "loss") -> Tensor:
        """Return the cost m_t(θ), (B,), of a placed batch as `explained` returns it."""
        return measure(name, self.loss, self.outputs(theta, batch.inputs), batch.targets)

    def explained(self, batch: Batch, f: Tensor | None = None) -> Batch:
        """Return a placed batch, whose outputs f (B, C) may be known, with the targets that its explanation is about.

        Without targets a classification explains the predicted label, and a regression its one output: the cost is then
        the output itself, and the targets stay None.

        Raises:
            InvalidArgument: TARGETS_MISSING for a regression of several outputs without targets.
        """
        if batch.targets is not None:
            return batch
        if self.loss.explains_label:
            f = self.outputs(self.theta, batch.inputs) if f is None else f
            return replace(batch, targets=self.loss.predictions(f))
        if self.outputs_per_row != 1:
            text = (
                "rows without targets can be explained where the model has one output; this one has "
                f"{self.outputs_per_row}: add targets"
            )
            raise InvalidArgument.at("targets", text, Reason.TARGETS_MISSING)
        return batch

    @property
    def convex(self) -> bool:
        """Whether R is convex in θ: a linear head under these losses."""
        return self.head is not None

    @property
    def parameters(self) -> tuple[ParameterInfo, ...]:
        """Every parameter that the prediction depends on."""
        excluded = set(self._l2_excluded())
        return tuple(
            ParameterInfo(
                name,
                tuple(tensor.shape),
                selected=name in self.space.shapes,
                l2=self.spec.l2 > 0 and name not in excluded,
            )
            for name, tensor in self.program.parameters.items()
        )

    def _l2_excluded(self) -> list[str]:
        return matching(self.program, self.spec.l2_exclude, tuple(self.program.parameters), "objective.l2_exclude")


def _outputs_per_row(program: Program) -> int:
    shape = program.output_shape
    if len(shape) > 1 or -1 in shape or 0 in shape:
        text = f"a prediction has the shape {shape}; the objectives need one number or one vector of fixed length a row"
        raise InvalidArgument.at("objective", text, Reason.OBJECTIVE_MISMATCH)
    return shape[0] if shape else 1


def _input(spec: InputSpec, batch: Batch, count: int) -> Tensor:
    if spec.name in batch.inputs:
        tensor = batch.inputs[spec.name]
    elif count == 1 and len(batch.inputs) == 1:
        tensor = next(iter(batch.inputs.values()))  # one input each: no name can mislead
    else:
        text = f"the model needs the input {spec.name!r}; the data set has {', '.join(batch.inputs)}"
        raise InvalidArgument.at("inputs", text, Reason.INPUT_MISMATCH)
    shape = tuple(tensor.shape[1:])
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
    )
    loses = (tensor.is_floating_point() and not spec.dtype.is_floating_point) or tensor.is_complex()
    if not fits or loses or len(tensor) != len(batch.index):
        # In float64 here, whatever the model was stored in: its floating-point inputs take any numbers.
        wanted = "numbers" if spec.dtype.is_floating_point else str(spec.dtype).removeprefix("torch.")
        found = str(tensor.dtype).removeprefix("torch.")
        text = (
            f"the model's input {spec.name!r} takes {wanted} of shape {spec.shape} a row; the data set has {found} of "
            f"shape {shape}: register the columns that the model was trained on, in another shape with "
            "undue.Input(…, row_shape=…)"
        )
        raise InvalidArgument.at("inputs", text, Reason.INPUT_MISMATCH)
    return tensor


def _weights(batch: Batch) -> Tensor:
    weights = batch.weights
    if weights.shape != batch.index.shape or weights.is_complex():
        raise InvalidArgument.at(
            "weights", f"there is one weight a row, but the weights have the shape {tuple(weights.shape)}"
        )
    bad = ~(torch.isfinite(weights) & (weights >= 0))
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise InvalidArgument.at(
            "weights",
            f"row {int(batch.index[first])} has the weight {weights[first].item()}; a weight is finite and ≥ 0",
        )
    return weights
