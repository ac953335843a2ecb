"""How a model was trained, and its weights at other times: what callers hand in beside the model itself."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from ._errors import invalid
from ._inputs import non_negative, positive, seed_number

Optimizer = Literal["sgd", "adam"]
Schedule = Literal["linear", "cosine"]
WeightsFormat = Literal["safetensors", "onnx", "pt2"]

Initialiser = Literal["torch"]

Weights = Any
"""A path (.safetensors, .onnx, .pt2), a mapping of parameter name to array, or an nn.Module."""


@dataclass(frozen=True, slots=True, init=False)
class Training:
    """The recipe by which a model was trained, for training it again without some rows.

    Each step descends (1/B) Σ w_i ℓ_i + l2/2 · ‖θ‖² over B rows, with the objective's ℓ, weights and L2.

    Args:
        optimizer: "sgd" or "adam".
        lr: learning rate at the first step.
        epochs: how often the training set is gone through.
        batch_size: rows of a step; None takes all.
        schedule: "linear" or "cosine", from `lr` to 0 over all steps; None keeps it.
        momentum: of "sgd".
        betas: decay of "adam"'s two moments.
        eps: what "adam" adds to the root of the second moment.
        seed: of the rows' order, and of what is drawn.
        init: where a cold start begins: a weights file, a mapping of parameter name to array, an nn.Module, or "torch"
            for weights drawn as torch's own layers draw theirs. None: the model is trained again from its registered
            weights only.

    Raises:
        InvalidArgument: an argument is wrong.
    """

    optimizer: Optimizer
    lr: float
    epochs: int
    batch_size: int | None
    schedule: Schedule | None
    momentum: float
    betas: tuple[float, float]
    eps: float
    seed: int
    init: Weights | None

    def __init__(
        self,
        optimizer: Optimizer,
        lr: float,
        *,
        epochs: int,
        batch_size: int | None = None,
        schedule: Schedule | None = None,
        momentum: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        seed: int = 0,
        init: Weights | None = None,
    ) -> None:
        _one_of("training.optimizer", optimizer, get_args(Optimizer))
        if schedule is not None:
            _one_of("training.schedule", schedule, get_args(Schedule))
        if len(betas) != 2:
            raise invalid("training.betas", f"{betas!r} are not two numbers")
        checked = {
            "optimizer": optimizer,
            "lr": _above_zero("training.lr", lr),
            "epochs": positive("training.epochs", epochs),
            "batch_size": None if batch_size is None else positive("training.batch_size", batch_size),
            "schedule": schedule,
            "momentum": _below_one("training.momentum", momentum),
            "betas": (_below_one("training.betas[0]", betas[0]), _below_one("training.betas[1]", betas[1])),
            "eps": _above_zero("training.eps", eps),
            "seed": seed_number("training.seed", seed),
            "init": init,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, init=False)
class Checkpoint:
    """A model at other weights: of an earlier epoch, or of another seed.

    Args:
        source: its weights: a .safetensors file, the model itself in a .onnx or .pt2 file, a mapping of parameter name
            to array, or an nn.Module. The names are those that the registered model has.
        learning_rate: of the steps that it stands for.

    Raises:
        InvalidArgument: an argument is wrong.
    """

    source: Weights
    learning_rate: float

    def __init__(self, source: Weights, learning_rate: float) -> None:
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "learning_rate", _above_zero("checkpoint.learning_rate", learning_rate))


def checked_recipe(training: object, checkpoints: Iterable[object]) -> tuple[Training | None, list[Checkpoint]]:
    """Return how a model was trained and its checkpoints, before anything is sent.

    Raises:
        InvalidArgument: they are something else, or name files that are not read.
    """
    if not isinstance(training, Training | None):
        raise invalid("training", "must be an undue.Training, e.g. undue.Training('adam', lr=1e-3, epochs=20)")
    if training is not None and training.init is not None and not is_initialiser(training.init):
        _check_source("training.init", training.init)
    checked = []
    for place, each in enumerate(checkpoints):
        if not isinstance(each, Checkpoint):
            raise invalid(f"checkpoints[{place}]", "must be an undue.Checkpoint(source, learning_rate)")
        _check_source(f"checkpoints[{place}].source", each.source)
        checked.append(each)
    return training, checked


def is_initialiser(init: object) -> bool:
    """Return whether weights are drawn rather than read."""
    return isinstance(init, str) and init in get_args(Initialiser)


def weights_file(field: str, source: object, folder: Path) -> tuple[Path, WeightsFormat]:
    """Return weights as a file, written into the folder where they are none yet, and its format.

    Raises:
        InvalidArgument: they are no weights.
    """
    if isinstance(source, str | os.PathLike):
        return _weights_path(field, source)
    named = _state(field, source)
    from safetensors.numpy import save_file  # imported where it is needed

    path = folder / "weights.safetensors"
    save_file({str(name): _array(f"{field}[{name!r}]", value) for name, value in named.items()}, path)
    return path, "safetensors"


def _check_source(field: str, source: object) -> None:
    if isinstance(source, str | os.PathLike):
        _weights_path(field, source)
    else:
        _state(field, source)


def _state(field: str, source: object) -> Mapping[Any, Any]:
    state = getattr(source, "state_dict", source)  # a method of an nn.Module, a mapping of an ExportedProgram
    named = state() if callable(state) else state
    if not isinstance(named, Mapping) or not named:
        text = f"is a {type(source).__name__}; pass a path, a mapping of parameter name to array, or an nn.Module"
        raise invalid(field, text)
    return named


def _weights_path(field: str, source: str | os.PathLike[Any]) -> tuple[Path, WeightsFormat]:
    path = Path(os.fsdecode(source)).expanduser()
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in get_args(WeightsFormat):
        text = (
            f"{path.name!r} is not read; weights are a .safetensors, .onnx or .pt2 file, a mapping of parameter name "
            "to array, or an nn.Module. Of a torch checkpoint: safetensors.torch.save_file(torch.load(path, "
            "weights_only=True), 'weights.safetensors')"
        )
        raise invalid(field, text)
    return path, cast(WeightsFormat, suffix)


def _array(field: str, value: Any) -> np.ndarray[Any, Any]:
    try:
        if hasattr(value, "detach"):  # a torch tensor, perhaps of a type that NumPy has no word for
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
        array = np.asarray(value, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise invalid(field, f"is no array ({error})") from None
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise invalid(field, f"holds {array.dtype}; convert it to float32 or float64")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise invalid(field, f"{value!r} is not one of {', '.join(allowed)}")


def _above_zero(field: str, value: object) -> float:
    number = non_negative(field, value)
    if number == 0:
        raise invalid(field, "is 0; it is greater")
    return number


def _below_one(field: str, value: object) -> float:
    number = non_negative(field, value)
    if number >= 1:
        raise invalid(field, f"{number!r} is not below 1")
    return number
