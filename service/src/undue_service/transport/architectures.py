"""Architectures between messages and values of the domain."""

from collections.abc import Iterable

from undue.v1 import models_pb2, server_info_pb2
from undue_service.domain.architectures import ARCHITECTURES, ArchitectureChoice, OptionValue
from undue_service.domain.errors import InvalidArgument


def read(field: str, model: models_pb2.Model, file_format: str) -> ArchitectureChoice | None:
    """Return what the weights of a request are loaded into.

    Raises:
        InvalidArgument: there is one where the format has none, or none where it needs one.
    """
    given = model.HasField("architecture")
    if given != (file_format == "safetensors"):
        text = f"is for weights alone, in safetensors; {file_format} is a whole model, so leave it out"
        missing = "is missing: safetensors holds weights alone, so name what they are loaded into"
        raise InvalidArgument.at(field, text if given else missing)
    if not given:
        return None
    options = model.architecture.options.items()
    return ArchitectureChoice(model.architecture.name, {name: _value(option) for name, option in sorted(options)})


def write(value: ArchitectureChoice) -> models_pb2.Architecture:
    """Return the message of an architecture."""
    return models_pb2.Architecture(name=value.name, options={name: _option(one) for name, one in value.options.items()})


def listing(names: Iterable[str]) -> list[server_info_pb2.ArchitectureInfo]:
    """Return what is known of architectures."""
    found = []
    for name in names:
        spec = ARCHITECTURES.get(name)
        info = server_info_pb2.ArchitectureInfo(name=name, built_in=spec is not None)
        if spec is not None:
            info.meaning = spec.meaning
            for one in spec.options:
                default = None if one.default is None else str(one.default)
                info.options.add(name=one.name, meaning=one.meaning, allowed=one.allowed, default_value=default)
        found.append(info)
    return found


def _value(option: models_pb2.Architecture.Option) -> OptionValue:
    match option.WhichOneof("value"):
        case "integer":
            return option.integer
        case "number":
            return option.number
        case "text":
            return option.text
        case "flag":
            return option.flag
    return tuple(option.integers.values)


def _option(value: OptionValue) -> models_pb2.Architecture.Option:
    message = models_pb2.Architecture.Option
    if isinstance(value, bool):
        return message(flag=value)
    if isinstance(value, int):
        return message(integer=value)
    if isinstance(value, float):
        return message(number=value)
    if isinstance(value, str):
        return message(text=value)
    return message(integers=models_pb2.Architecture.Integers(values=value))
