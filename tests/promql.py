"""Which metrics and labels a PromQL expression names. A reader of the parts that rules and dashboards use, no more."""

import re
from collections import defaultdict
from collections.abc import Mapping, Set

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<range>\[[^\]]*\])
      | (?P<number>0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?(?:ms|[smhdwy])?)
      | (?P<word>[a-zA-Z_:][\w:]*)
      | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},@])""",
    re.VERBOSE,
)
_LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end"}


def references(expression: str) -> Mapping[str, Set[str]]:
    """Return each metric's name with the labels that the expression expects of it.

    A label in braces belongs to the metric before them; one in by (…) to every metric in that aggregation's brackets;
    one in on (…) and its like to every metric of the expression.

    Raises:
        ValueError: something that is not PromQL, or a part of it that is not known here.
    """
    tokens = _tokens(expression)
    found: dict[str, set[str]] = defaultdict(set)
    places: list[tuple[int, str]] = []
    lists: list[tuple[int, str, list[str]]] = []
    position = 0
    for opening, (_, text) in enumerate(tokens):
        if text in ("(", "{"):
            _closing(tokens, opening)
    while position < len(tokens):
        kind, text = tokens[position]
        after = tokens[position + 1][1] if position + 1 < len(tokens) else ""
        if kind == "word" and text in _LABEL_LISTS and after == "(":
            end = _closing(tokens, position + 1)
            lists.append((position, text, [name for kind, name in tokens[position:end] if kind == "word"][1:]))
            position = end
        elif kind == "word" and text not in _WORDS and after not in ("(", "by", "without"):
            places.append((position, text))
            found[text] |= set()
            if after == "{":
                end = _closing(tokens, position + 1)
                found[text] |= {name for kind, name in tokens[position + 2 : end] if kind == "word"}
                position = end
        position += 1
    for place, word, labels in lists:
        first, last = _governed(tokens, place) if word in ("by", "without") else (0, len(tokens))
        for where, metric in places:
            if first <= where < last:
                found[metric] |= set(labels)
    return found


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ValueError(f"not PromQL, at {expression[position : position + 20]!r}")
        if match.lastgroup != "space":
            tokens.append((match.lastgroup or "", match[0]))
        position = match.end()
    return tokens


def _closing(tokens: list[tuple[str, str]], opening: int) -> int:
    """Return where the bracket that opens there is closed."""
    depth = 0
    for position in range(opening, len(tokens)):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(tokens[position][1], 0)
        if depth == 0:
            return position
    raise ValueError("a bracket is not closed")


def _governed(tokens: list[tuple[str, str]], place: int) -> tuple[int, int]:
    """Return the range of what `sum by (…) (HERE)` or `sum(HERE) by (…)` aggregates."""
    after = _closing(tokens, place + 1) + 1
    if after < len(tokens) and tokens[after][1] == "(":
        return after, _closing(tokens, after)
    opening = place - 1
    while opening >= 0 and not (tokens[opening][1] == "(" and _closing(tokens, opening) == place - 1):
        opening -= 1
    if opening < 0:
        raise ValueError("by (…) beside no aggregation")
    return opening, place
