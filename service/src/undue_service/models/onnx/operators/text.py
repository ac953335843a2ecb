"""Strings: they flow through a graph and are changed whole, never computed with."""

from collections.abc import Callable

import numpy as np
import torch

from undue_service.models.onnx.values import Node, Shape, Text, Value
from undue_service.models.refusals import malformed, quoted, unsupported

_CASES: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}
_LOCALES = ("", "C", "en_US", "en_US.UTF-8")
"""In these, letters change case as Unicode says without a locale."""
_MAX_CHARACTERS = 2**24


def string_concat(node: Node) -> Text:
    """Y = the strings of A, each followed by that of B, with NumPy's broadcasting."""
    left, right = np.broadcast_arrays(_text(node, 0), _text(node, 1))
    joined = [a + b for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)]
    return _bounded(node, _array(joined, left.shape))


def string_normalizer(node: Node) -> Text:
    """Y = the strings of X, (C,) or (1, C), without stop words, in another case; one empty string if none is left."""
    x = _text(node, 0)
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise malformed(f"{node} takes one list of strings, not an array of shape {x.shape}")
    action, locale = node.text("case_change_action", "NONE"), node.text("locale", "")
    if action not in _CASES:
        raise malformed(f"{node} has the case_change_action {quoted(action)}")
    if locale not in _LOCALES:
        raise unsupported(f"{node} follows the locale {quoted(locale)}; supported is en_US")
    key = str if node.attribute("is_case_sensitive", 0) else str.lower
    stop = {key(word) for word in node.texts("stopwords")}
    kept = [_CASES[action](word) for word in x.reshape(-1) if key(word) not in stop] or [""]
    return _bounded(node, _array(kept, (len(kept),) if x.ndim == 1 else (1, len(kept))))


def string_split(node: Node) -> tuple[Value, ...]:
    """Y (*sizes, parts) = the parts of each string between delimiters, filled up with ""; Z (*sizes) = how many.

    Without a delimiter, or with an empty one, strings are split at runs of white space.
    """
    x = _text(node, 0)
    delimiter, most = node.text("delimiter", "") or None, int(node.attribute("maxsplit", -1))
    parts = [word.split(delimiter, most) for word in x.reshape(-1)]
    width = max((len(part) for part in parts), default=0)
    if width * x.size > _MAX_CHARACTERS:
        raise unsupported(f"{node} makes {width * x.size:,} strings; the limit is {_MAX_CHARACTERS:,}")
    filled = [word for part in parts for word in [*part, *[""] * (width - len(part))]]
    return Text(_array(filled, (*x.shape, width))), Shape.of(map(len, parts), x.shape)


def equal(compute: Callable[[Node], Value]) -> Callable[[Node], Value]:
    """Return an operator that compares strings, and leaves everything else to another."""

    def either(node: Node) -> Value:
        if not isinstance(node.value(0), Text):
            return compute(node)
        return torch.from_numpy(np.asarray(_text(node, 0) == _text(node, 1), dtype=bool))

    return either


def _text(node: Node, index: int) -> np.ndarray:
    value = node.required(index)
    if not isinstance(value, Text):
        raise malformed(f"{node} takes strings as its input {index}")
    return value.array


def _array(words: list[str], sizes: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(words), dtype=object)
    array[:] = words
    return array.reshape(sizes)


def _bounded(node: Node, array: np.ndarray) -> Text:
    total = sum(map(len, array.reshape(-1)))
    if total > _MAX_CHARACTERS:
        raise unsupported(f"{node} gives {total:,} characters; the limit is {_MAX_CHARACTERS:,}")
    return Text(array)
