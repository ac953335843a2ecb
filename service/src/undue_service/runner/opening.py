"""Registered models as the engine takes them: opened once, as objectives, with their checkpoints and recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

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
        if self._opened is None or self._opened[0] != model.digest:
            self._opened = None  # the old one's memory goes before the new one comes
            self._opened = (model.digest, open_model(artifacts[model.digest], model.format, scratch))
        return self._opened[1]

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
            precision: of weights and scores, whatever the weights were stored in.
        """
        opened = self.open(model, artifacts, scratch)
        program = Program.from_exported(
            opened.exported,
            model.output,
            input_names=[column.name for column in opened.inputs],
            output_names=opened.outputs,
        )
        dtype = torch.float32 if precision == "float32" else torch.float64
        return Objective(program.to(self._device, dtype), model.objective, parameters or model.parameters)


def open_checkpoints(model: ModelSpec, artifacts: Mapping[str, Path], scratch: Path) -> tuple[Checkpoint, ...]:
    """Return a model's checkpoints, in their order."""
    return tuple(Checkpoint(_weights(one.weights, artifacts, scratch), one.learning_rate) for one in model.checkpoints)


def open_initial(model: ModelSpec, artifacts: Mapping[str, Path], scratch: Path) -> Mapping[str, Tensor] | None:
    """Return the weights at which the training of a model began; None where its recipe names no file of them."""
    init = model.training.init if model.training is not None else None
    return _weights(init, artifacts, scratch) if isinstance(init, WeightsFile) else None


def _weights(file: WeightsFile, artifacts: Mapping[str, Path], scratch: Path) -> Mapping[str, Tensor]:
    # Archives are rewritten into the folder by fixed names, and several of them are opened.
    own = scratch / f"weights-{file.digest[:16]}"
    own.mkdir(exist_ok=True)
    return open_weights(artifacts[file.digest], file.format, own)
