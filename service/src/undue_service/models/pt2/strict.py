"""JSON text to the dataclasses of torch's serialisation schema, and nothing but what the schema says.

torch's own reader ignores unknown keys, takes any type for any other, and lets one key stand twice.
"""

import dataclasses
import functools
import json
import types
import typing
from enum import IntEnum
from typing import Any, TypeVar

from torch._export.serde import schema
from torch._export.serde.union import _Union

from undue_service.models.refusals import malformed, quoted

T = TypeVar("T")
_MAX_DEPTH = 32
_INT64 = range(-(2**63), 2**63)
_WRITTEN_FLOATS = ("Infinity", "-Infinity", "NaN")
"""What torch writes for numbers that JSON lacks."""


def parse_json(text: str, what: str) -> object:
    """Return what a JSON text holds.

    Raises:
        InvalidArgument: MODEL_MALFORMED.
    """

    def refuse(token: str) -> object:
        raise ValueError(f"{token} is not JSON")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise malformed(f"{what} is not JSON: {quoted(error)}") from error


def read(cls: type[T], data: object, what: str) -> T:
    """Return JSON data as a dataclass of the schema.

    Raises:
        InvalidArgument: MODEL_MALFORMED, naming the place where the data departs from the schema.
    """
    return typing.cast(T, _read(cls, data, what, 0))


def make(cls: type[T], **value: object) -> T:
    """Return a union of the schema with one of its fields set."""
    return typing.cast(T, typing.cast(Any, cls).create(**value))


def dump(value: object) -> Any:
    """Return a dataclass of the schema as JSON data; the inverse of `read`."""
    if isinstance(value, _Union):
        return {str(value.type): dump(value.value)}
    if dataclasses.is_dataclass(value):
        return {field.name: dump(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list):
        return [dump(item) for item in value]
    if isinstance(value, dict):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


@functools.cache
def _fields(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, globalns=vars(schema))


def _read(hint: Any, data: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise malformed(f"{where[:200]} is nested deeper than {_MAX_DEPTH}")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _read(arguments[0], data, where, depth)
    if origin is list:
        _require(isinstance(data, list), where, "a list", data)
        return [_read(arguments[0], item, f"{where}[{i}]", depth + 1) for i, item in enumerate(data)]
    if origin is dict:
        _require(isinstance(data, dict), where, "an object", data)
        return {key: _read(arguments[1], item, f"{where}[{key!r:.80}]", depth + 1) for key, item in data.items()}
    if issubclass(hint, _Union):
        return _read_union(hint, data, where, depth)
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, data, where, depth)
    return _read_scalar(hint, data, where)


def _read_union(hint: Any, data: Any, where: str, depth: int) -> Any:
    fields = _fields(hint)
    _require(isinstance(data, dict) and len(data) == 1 and set(data) <= set(fields), where, hint.__name__, data)
    ((kind, value),) = data.items()
    return make(hint, **{kind: _read(fields[kind], value, f"{where}.{kind}", depth + 1)})


def _read_dataclass(hint: Any, data: Any, where: str, depth: int) -> Any:
    fields = _fields(hint)
    _require(isinstance(data, dict) and set(data) <= set(fields), where, hint.__name__, data)
    required = {f.name for f in dataclasses.fields(hint) if f.default is f.default_factory is dataclasses.MISSING}
    _require(required <= set(data), where, hint.__name__, data)
    return hint(**{name: _read(fields[name], value, f"{where}.{name}", depth + 1) for name, value in data.items()})


def _read_scalar(hint: Any, data: Any, where: str) -> Any:
    if issubclass(hint, IntEnum):
        _require(type(data) is int and data in hint._value2member_map_, where, hint.__name__, data)
        return data
    if hint is float:
        _require(type(data) in (int, float) or data in _WRITTEN_FLOATS, where, "a number", data)
        return float(data)
    _require(type(data) is hint and (hint is not int or data in _INT64), where, hint.__name__, data)
    return data


def _require(condition: bool, where: str, wanted: str, data: object) -> None:
    if not condition:
        raise malformed(f"{where[:400]} is not {wanted}: {quoted(data)}")
