"""Shape expressions. torch hands them to `sympy.sympify`, which evaluates Python; only what is rebuilt here reaches it.

The grammar is the part of `sympy.srepr` that shapes need:

    expression = "Symbol('s" digits "'" { ", positive=True" | ", integer=True" | ", nonnegative=True" } ")"
               | "Integer(" [ "-" ] digits ")"
               | ( "Add" | "Mul" ) "(" expression { ", " expression } ")"
               | ( "Max" | "Min" ) "(" expression [ ", " expression [ ", " expression ] ] ")"
               | ( "FloorDiv" | "CleanDiv" | "Mod" | "PythonMod" ) "(" expression ", " expression ")"
               | "Pow(" expression ", Integer(" "1" … "4" "))"
    condition  = relation "(" expression ", " expression ")"
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from undue_service.domain.errors import InvalidArgument
from undue_service.models.refusals import quoted, unsafe, unsupported

SYMBOL = re.compile(r"s[0-9]{1,6}")
_MAX_LENGTH = 2_000
_MAX_TERMS = 64
_MAX_DEPTH = 8
_MAX_EXTREMES = 3
"""sympy compares every pair of them."""
_TOKEN = re.compile(
    r" *(?:(?P<word>[A-Za-z]{1,24})|(?P<number>-?[0-9]{1,18})|'(?P<symbol>[a-z][0-9]{1,6})'|(?P<mark>[(),=]))"
)
_VARIADIC = ("Add", "Mul")
_EXTREMES = ("Max", "Min")
_BINARY = ("FloorDiv", "CleanDiv", "Mod", "PythonMod")
_RELATIONS = ("Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan")
_ASSUMPTIONS = ("positive", "integer", "nonnegative")
_KNOWN_BUT_UNUSED = (
    "Where", "CeilDiv", "CeilToInt", "FloorToInt", "IntTrueDiv", "FloatTrueDiv", "ModularIndexing",
    "ToFloat", "TruncToInt", "RoundToInt", "PowByNatural", "FloatPow", "Float", "And", "Or", "Not", "Rational",
    "LShift", "RShift",
)  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """An expression that was understood."""

    text: str
    """Written anew from what was understood."""
    symbol: str | None
    """Its name, where the expression is one symbol."""


def parse_expression(text: str) -> Expression:
    """Return an integer expression.

    Raises:
        InvalidArgument: MODEL_UNSAFE, the text is outside the grammar; MODEL_UNSUPPORTED, it depends on the data, or
            uses a function of torch's that is not read here.
    """
    return _Parser(text).whole(relation=False)


def parse_condition(text: str) -> Expression:
    """Return a comparison of two integer expressions. Raises what `parse_expression` raises."""
    return _Parser(text).whole(relation=True)


class _Parser:
    """A recursive-descent parser over bounded tokens."""

    def __init__(self, text: str) -> None:
        self._source = text
        self._terms = 0
        if len(text) > _MAX_LENGTH:
            raise self._refusal()
        self._tokens = list(self._tokenise(text))
        self._next = 0

    def whole(self, *, relation: bool) -> Expression:
        head = self._tokens[0][1] if self._tokens else ""
        if relation and head in _RELATIONS:
            self._take("word", head)
            text = f"{head}({', '.join(self._arguments(1, 2, 2))})"
        else:
            text = self._expression(0)
        if self._next != len(self._tokens) or relation != (head in _RELATIONS):
            raise self._refusal()
        symbol = self._tokens[2][1] if head == "Symbol" else None
        return Expression(text, symbol)

    def _tokenise(self, text: str) -> Iterator[tuple[str, str]]:
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._refusal()
            yield match.lastgroup, match[match.lastgroup]
            position = match.end()

    def _expression(self, depth: int) -> str:
        self._terms += 1
        if depth > _MAX_DEPTH or self._terms > _MAX_TERMS:
            raise self._refusal()
        head = self._take("word")
        if head == "Symbol":
            return self._symbol()
        if head == "Integer":
            return f"Integer({self._integer()})"
        if head in _VARIADIC:
            return f"{head}({', '.join(self._arguments(depth + 1, 1, _MAX_TERMS))})"
        if head in _EXTREMES:
            return f"{head}({', '.join(self._arguments(depth + 1, 1, _MAX_EXTREMES))})"
        if head in _BINARY:
            return f"{head}({', '.join(self._arguments(depth + 1, 2, 2))})"
        if head == "Pow":
            base, power = self._arguments(depth + 1, 2, 2)
            if power not in [f"Integer({n})" for n in range(1, 5)]:
                raise self._refusal()
            return f"Pow({base}, {power})"
        if head in _KNOWN_BUT_UNUSED:
            raise unsupported(f"the shape {quoted(self._source)} uses {head}, which is not read here")
        raise self._refusal()

    def _symbol(self) -> str:
        self._take("mark", "(")
        name = self._take("symbol")
        if name[0] in "uz":
            raise unsupported(f"the shape {quoted(self._source)} depends on the data")
        if not SYMBOL.fullmatch(name):
            raise self._refusal()
        assumptions = set()
        while self._take("mark") == ",":
            assumptions.add(self._take("word"))
            self._take("mark", "=")
            self._take("word", "True")
        if self._tokens[self._next - 1][1] != ")" or not assumptions <= set(_ASSUMPTIONS):
            raise self._refusal()
        return f"Symbol({name!r}{''.join(f', {a}=True' for a in _ASSUMPTIONS if a in assumptions)})"

    def _integer(self) -> int:
        self._take("mark", "(")
        value = int(self._take("number"))
        self._take("mark", ")")
        return value

    def _arguments(self, depth: int, least: int, most: int) -> list[str]:
        self._take("mark", "(")
        arguments = [self._expression(depth)]
        while (mark := self._take("mark")) == ",":
            arguments.append(self._expression(depth))
        if mark != ")" or not least <= len(arguments) <= most:
            raise self._refusal()
        return arguments

    def _take(self, kind: str, wanted: str | None = None) -> str:
        if self._next >= len(self._tokens):
            raise self._refusal()
        found, value = self._tokens[self._next]
        if found != kind or (wanted is not None and value != wanted):
            raise self._refusal()
        self._next += 1
        return value

    def _refusal(self) -> InvalidArgument:
        return unsafe(f"the shape expression {quoted(self._source)} is not one that torch.export writes")
