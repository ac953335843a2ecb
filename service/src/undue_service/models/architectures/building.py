"""An architecture's name and options to a module without weights."""

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

import torch

from undue_service.domain.architectures import ArchitectureChoice
from undue_service.domain.errors import InvalidArgument
from undue_service.models.refusals import quoted, unsupported

from .built import Built
from .lenet import lenet
from .mlp import mlp
from .resnet import resnet18, resnet50
from .transformer import transformer

GROUP = "undue.architectures"
"""Of the entry points by which an operator's packages bring architectures."""

BUILDERS: Mapping[str, Callable[..., Built]] = {
    "lenet": lenet,
    "mlp": mlp,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "transformer": transformer,
}


def build(choice: ArchitectureChoice, device: str) -> Built:
    """Return the module of an architecture, its tensors on a device; "meta" has none of their numbers.

    Raises:
        InvalidArgument: INVALID_FIELD, an option is wrong; MODEL_UNSUPPORTED, the architecture is not installed, or
            its code fails or gives something else.
    """
    builder = BUILDERS.get(choice.name) or _installed(choice)
    with torch.device(device):
        try:
            made = builder(**choice.options)
        except Exception as error:  # the operator's code, or sizes that do not fit together
            raise unsupported(f"the architecture {choice} cannot be built: {quoted(error)}") from error
    return made if isinstance(made, Built) else _checked(choice, made)


def _installed(choice: ArchitectureChoice) -> Callable[..., Any]:
    found = entry_points(group=GROUP, name=choice.name)
    if len(found) != 1:
        how_many = "more than one" if found else "none"
        raise unsupported(f"the runner has {how_many} of the architecture {quoted(choice.name)} installed")
    try:
        [entry] = found
        builder: Callable[..., Any] = entry.load()
        signature = inspect.signature(builder)
    except Exception as error:
        raise unsupported(f"the architecture {quoted(choice.name)} cannot be loaded: {quoted(error)}") from error
    try:
        signature.bind(**choice.options)
    except TypeError as error:
        takes = ", ".join(str(one) for one in signature.parameters.values())
        text = f"{choice.name} takes {takes}: {quoted(error)}"
        raise InvalidArgument.at("model.architecture.options", text) from error
    return builder


def _checked(choice: ArchitectureChoice, made: Any) -> Built:
    """Return what an installed architecture gave: a module, and example inputs by name."""
    fits = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)
    inputs = made[1] if fits else None
    if not isinstance(inputs, Mapping) or not inputs:
        raise unsupported(f"{choice.name} must return a torch.nn.Module and a dict of input name to a tensor of rows")
    for name, tensor in inputs.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.dim() == 0:
            raise unsupported(f"{choice.name} gives for the input {quoted(name)} no tensor with an axis of rows")
    return Built(made[0], inputs)
