"""Registered models as the engine takes them: opened once, as objectives, with their checkpoints and recipe."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from undue_service.domain.errors import Error, InvalidArgument, Reason
from undue_service.domain.specs import ModelSpec, WeightsFile
from undue_service.engine.methods import Checkpoint
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import OpenedModel, open_model, open_weights


class Models:
    """The models of one device. The one opened last stays open: jobs come in runs over one model."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._opened: tuple[str, OpenedModel] | None = None

    def open(self, model: ModelSpec, artifacts: Mapping[str, Path], scratch: Path) -> OpenedModel:
        """Return the model of a file."""
        key = f"{model.digest} {model.format} {model.architecture!r}"  # weights may be of several architectures
        if self._opened is None or self._opened[0] != key:
            self._opened = None  # the old one's memory goes before the new one comes
            opened = open_model(artifacts[model.digest], model.format, scratch, model.architecture)
            self._opened = (key, opened)
        return self._opened[1]

    def forget(self) -> None:
        """Let the one that stays open go."""
        self._opened = None

    def objective(
        self,
        model: ModelSpec,
        artifacts: Mapping[str, Path],
        scratch: Path,
        *,
        parameters: Sequence[str] = (),
        precision: str = "float64",
    ) -> Objective:
        """Return a model with its objective.

        Args:
            model: what was registered.
            artifacts: files by digest.
            scratch: an existing folder that belongs to the caller.
            parameters: patterns to select by instead of the registered ones.
            precision: of weights and scores, whatever the weights were stored in; a linear head's are in float64. With
                "registered" it is the other way round: a model with a linear head stays in what its weights were stored
                in, for work in which what is below the head takes the time, and any other is in float64.
        """
        opened = self.open(model, artifacts, scratch)
        program = Program.from_exported(
            opened.exported,
            model.output,
            input_names=[column.name for column in opened.inputs],
            output_names=opened.outputs,
        )
        selected = parameters or model.parameters
        stored = torch.float64 if program.dtype is torch.float64 else torch.float32
        objective = Objective(program.to(self._device, torch.float64), model.objective, selected)
        if precision == "registered" and objective.head is not None:
            return Objective(program.to(self._device, stored), model.objective, selected)
        if precision != "float32" or objective.head is not None:
            return objective
        return Objective(program.to(self._device, torch.float32), model.objective, selected)


def open_checkpoints(model: ModelSpec, artifacts: Mapping[str, Path], scratch: Path) -> tuple[Checkpoint, ...]:
    """Return a model's checkpoints, in their order."""
    return tuple(
        Checkpoint(open_weights(artifacts[one.weights.digest], one.weights.format, scratch), one.learning_rate)
        for one in model.checkpoints
    )


def open_initial(model: ModelSpec, artifacts: Mapping[str, Path], scratch: Path) -> Mapping[str, Tensor] | None:
    """Return the weights at which the training of a model began; None where its recipe names no file of them."""
    init = model.training.init if model.training is not None else None
    return open_weights(artifacts[init.digest], init.format, scratch) if isinstance(init, WeightsFile) else None


class RegisteredWeights:
    """The files of weights that come with a model, held against it: one at a time, as there may be a hundred."""

    def __init__(
        self, opened: OpenedModel, objective: Objective, model: ModelSpec, artifacts: Mapping[str, Path], scratch: Path
    ) -> None:
        self._objective = objective
        self._model = model
        self._artifacts = artifacts
        self._scratch = scratch
        exported = opened.exported
        self._known = {
            *(name for name, _ in exported.named_parameters()),
            *(name for name, _ in exported.named_buffers()),
        }

    def check_initial(self) -> None:
        """Hold the weights at which training began against the model.

        Raises:
            Error: whatever is wrong with the file; WEIGHTS_MISMATCH where it is another model's.
        """
        init = self._model.training.init if self._model.training is not None else None
        if isinstance(init, WeightsFile):
            with naming("training.init"):
                self._at(init)

    def checkpoints(self) -> Iterator[Objective]:
        """Yield the objective at each checkpoint, in their order.

        Raises:
            Error: as `check_initial`.
        """
        for place, one in enumerate(self._model.checkpoints):
            with naming(f"checkpoints[{place}]"):
                at = self._at(one.weights)
            yield at

    def _at(self, file: WeightsFile) -> Objective:
        weights = open_weights(self._artifacts[file.digest], file.format, self._scratch)
        at = self._objective.at(weights)
        # A BatchNorm counts the batches that it has seen; no prediction reads that, and exporters leave it out.
        strange = sorted(name for name in weights.keys() - self._known if not name.endswith("num_batches_tracked"))
        if strange:
            listed = ", ".join(map(repr, strange[:5])) + (", …" if len(strange) > 5 else "")
            text = f"the model has no weights {listed}, so these are another model's"
            raise InvalidArgument(Reason.WEIGHTS_MISMATCH, text, metadata={"parameter": strange[0]})
        return at


@contextmanager
def naming(part: str) -> Iterator[None]:
    """Say in an error which part of a registration it is about."""
    try:
        yield
    except Error as error:
        text, metadata = f"{part}: {error.message}", error.metadata | {"part": part}
        raise type(error)(error.reason, text, metadata=metadata) from error
