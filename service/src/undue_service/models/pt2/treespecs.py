"""How inputs and outputs nest. torch imports modules by name to read these; only plain containers are let through."""

import json
from dataclasses import dataclass
from typing import Any

from undue_service.models.naming import is_placeholder_name
from undue_service.models.refusals import malformed, quoted, unsafe, unsupported

from .strict import parse_json

_PROTOCOL = 1
_MAX_DEPTH = 8
_MAX_LEAVES = 4_096
_LEAF: dict[str, object] = {"type": None, "context": None, "children_spec": []}
_SEQUENCES = ("builtins.tuple", "builtins.list")
_MAPPING = "builtins.dict"
_KEYS = {"type", "context", "children_spec"}


@dataclass(frozen=True)
class Tree:
    """A nesting of tuples, lists and dictionaries that was understood."""

    text: str
    """Written anew from what was understood."""
    leaves: tuple[tuple[str | None, ...], ...]
    """The way to each leaf: a dictionary's key, or None for a place in a sequence."""


def parse_inputs(text: str) -> Tree:
    """Return the nesting of a program's arguments, ((positional…), {keyword: …}).

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED.
    """
    tree = _parse(text)
    data = json.loads(tree.text)[1]
    kinds = [child["type"] for child in data["children_spec"]]
    if data["type"] != "builtins.tuple" or kinds != ["builtins.tuple", _MAPPING]:
        raise malformed("the program's arguments are not positional and keyword arguments")
    for name in json.loads(data["children_spec"][1]["context"]):
        if not is_placeholder_name(name):
            raise unsafe(f"the keyword argument {quoted(name)} is not a plain name")
    return tree


def parse_outputs(text: str) -> Tree:
    """Return the nesting of a program's outputs.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED.
    """
    return _parse(text)


def output_names(tree: Tree) -> tuple[str, ...]:
    """Return `output` for a single one, a dictionary's keys joined by dots, else `output_{i}`."""
    if len(tree.leaves) == 1:
        return ("output",)
    names = []
    for position, path in enumerate(tree.leaves):
        keys = [key for key in path if key is not None]
        names.append(".".join(keys) if keys and len(keys) == len(path) else f"output_{position}")
    if len(set(names)) != len(names):
        raise unsupported(f"two outputs of the program have the same name: {quoted(', '.join(names))}")
    return tuple(names)


def _parse(text: str) -> Tree:
    data = parse_json(text, "a tree specification")
    if not isinstance(data, list) or len(data) != 2 or data[0] != _PROTOCOL:
        raise malformed(f"the tree specification {quoted(text)} is of another version")
    leaves: list[tuple[str | None, ...]] = []
    rebuilt = _rebuild(data[1], (), leaves)
    return Tree(json.dumps([_PROTOCOL, rebuilt]), tuple(leaves))


def _rebuild(data: Any, path: tuple[str | None, ...], leaves: list[tuple[str | None, ...]]) -> dict[str, object]:
    if not isinstance(data, dict) or set(data) != _KEYS or not isinstance(data["children_spec"], list):
        raise malformed("a tree specification is not a tree")
    if len(path) > _MAX_DEPTH or len(leaves) >= _MAX_LEAVES:
        raise unsupported(f"the program's inputs or outputs nest deeper than {_MAX_DEPTH}, or are too many")
    kind, children = data["type"], data["children_spec"]
    if data == _LEAF:
        leaves.append(path)
        return dict(_LEAF)
    if kind in _SEQUENCES and data["context"] == "null":
        rebuilt = [_rebuild(child, (*path, None), leaves) for child in children]
        return {"type": kind, "context": "null", "children_spec": rebuilt}
    if kind == _MAPPING:
        keys = _keys(data["context"], len(children))
        rebuilt = [_rebuild(child, (*path, key), leaves) for key, child in zip(keys, children, strict=True)]
        return {"type": kind, "context": json.dumps(keys), "children_spec": rebuilt}
    raise unsupported(
        f"the program takes or returns a {quoted(kind)}; let forward take and return tensors, tuples, lists or dicts"
    )


def _keys(context: object, count: int) -> list[str]:
    keys = parse_json(context, "the keys of a dictionary") if isinstance(context, str) else None
    if not isinstance(keys, list) or len(keys) != count or not all(isinstance(key, str) for key in keys):
        raise unsupported("the program takes or returns a dictionary whose keys are not all strings")
    if len(set(keys)) != len(keys):
        raise malformed("a dictionary of the program has a key twice")
    return keys
