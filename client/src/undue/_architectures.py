"""What weights without a model are loaded into, and those weights as safetensors."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import invalid
from ._export import is_program
from ._foreign import foreign, refusal
from ._recipes import weights_file
from .v1 import models_pb2

OptionValue = bool | int | float | str | Sequence[int]

_EXPECTED = "pass a path of .safetensors weights or of a plain state_dict (.pt, .pth), or a mapping of name to array"
_LEVELS = ("state_dict", "model", "model_state_dict", "module", "net", "ema")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What weights without a model are loaded into."""

    name: str
    options: Mapping[str, Any]
    """With the defaults of what was left out, if it is one that comes with the service."""


@dataclass(frozen=True, slots=True)
class ArchitectureOption:
    """One option of an architecture."""

    name: str
    meaning: str
    allowed: str
    """What may be given, in words."""
    default: str | None
    """None where it has to be given."""


@dataclass(frozen=True, slots=True)
class ArchitectureInfo:
    """One architecture that a service has."""

    name: str
    built_in: bool
    """Whether it comes with the service; what others take is their operator's to say."""
    meaning: str
    options: tuple[ArchitectureOption, ...]


def architecture_message(name: object, options: object) -> models_pb2.Architecture | None:
    """Return the message of an architecture; None for none.

    Raises:
        InvalidArgument: it is no name, or an option is no number, text, bool or list of whole numbers.
    """
    if name is None:
        if options:
            raise invalid("architecture_options", "are of an architecture: name it (architecture=)")
        return None
    if not isinstance(name, str) or not name:
        raise invalid("architecture", f"{name!r} is no name, such as 'resnet18'; client.server_info() lists them")
    if not isinstance(options, Mapping | None):
        raise invalid("architecture_options", "must be a dict of option to value, e.g. {'classes': 10}")
    message = models_pb2.Architecture(name=name)
    for option, value in (options or {}).items():
        if not isinstance(option, str) or not option:
            raise invalid("architecture_options", f"{option!r} is the name of no option")
        message.options[option].CopyFrom(_option(f"architecture_options[{option!r}]", value))
    return message


def architecture(message: models_pb2.Architecture) -> Architecture:
    """Return the value of an architecture."""
    return Architecture(message.name, {name: _value(one) for name, one in sorted(message.options.items())})


def weights_source(source: object, folder: Path) -> Path:
    """Return weights as a .safetensors file, written into the folder where they are none yet.

    A plain state_dict is read by the caller's own torch, which runs no code in it (`weights_only`).

    Raises:
        InvalidArgument: it is a whole model, TorchScript or pickled objects, or holds no weights.
    """
    if is_program(source):
        text = "is a whole model, which has its architecture in it: leave architecture out"
        raise invalid("source", text)
    if isinstance(source, Mapping):
        return weights_file("source", source, folder)[0]
    if not isinstance(source, str | os.PathLike):
        raise invalid("source", f"is a {type(source).__name__}; {_EXPECTED}")
    path = Path(os.fsdecode(source)).expanduser()
    found = foreign(path)
    if found is not None and found[0] != "tensors":
        raise refusal(path, *found)
    if found is not None:
        return weights_file("source", _state_dict(path), folder)[0]
    suffix = path.suffix.lower()
    if suffix in (".onnx", ".pt2"):
        raise invalid("source", f"{path.name} is a whole model: leave architecture out, or {_EXPECTED}")
    if suffix != ".safetensors":
        if not path.is_file():
            raise invalid("source", f"{path} cannot be read: there is no such file")
        raise invalid("source", f"{path.name} is not read; {_EXPECTED}", reason="MODEL_UNSUPPORTED")
    return path


def _state_dict(path: Path) -> Mapping[str, Any]:
    if importlib.util.find_spec("torch") is None:
        text = f"{path.name} takes torch to be read, which is not installed here; write it as .safetensors where it is"
        raise invalid("source", text)
    import torch

    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler, its zip reader and its storages raise
        first = str(error).partition("\n")[0]
        raise invalid("source", f"{path.name} cannot be read by torch: {first}", reason="MODEL_MALFORMED") from error
    if _is_state(loaded):
        return loaded  # type: ignore[no-any-return]
    if isinstance(loaded, Mapping):
        inner = [name for name in (*_LEVELS, *loaded) if _is_state(loaded.get(name))]
        if inner:
            text = f"holds weights one level down: pass torch.load({path.name!r}, weights_only=True)[{inner[0]!r}]"
            raise invalid("source", f"{path.name} {text}")
    raise invalid("source", f"{path.name} holds a {type(loaded).__name__}, and no mapping of name to tensor")


def _is_state(loaded: object) -> bool:
    import torch

    return (
        isinstance(loaded, Mapping)
        and bool(loaded)
        and all(isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in loaded.items())
    )


def _option(field: str, value: object) -> models_pb2.Architecture.Option:
    message = models_pb2.Architecture.Option
    try:
        if isinstance(value, bool):
            return message(flag=value)
        if isinstance(value, int):
            return message(integer=value)
        if isinstance(value, float):
            return message(number=value)
        if isinstance(value, str):
            return message(text=value)
        if isinstance(value, Sequence) and all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            return message(integers=models_pb2.Architecture.Integers(values=value))
    except ValueError as error:
        raise invalid(field, f"{value!r}: {error}") from None
    raise invalid(field, f"{value!r} is no number, text, bool or list of whole numbers")


def _value(option: models_pb2.Architecture.Option) -> Any:
    kind = option.WhichOneof("value")
    if kind is None:
        return None
    return tuple(option.integers.values) if kind == "integers" else getattr(option, kind)
