"""Which axis of each value in a graph is the row, read off the symbolic shapes.

A batch of B rows may lie at any axis, and may share it with others: reshaping (B, T, …) to (B·T, …), or (T, B, …) to
(T·B, …). Views keep the row-major order of elements, so they are followed by how many elements precede a step along the
batch; any other operator keeps the order of an axis whose size it keeps, unless it is told to work along it.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import sympy
import torch
from torch import Tensor, fx

from undue_service.engine.activation import SAME_ELEMENTS
from undue_service.engine.graph import Graph, argument, aten

_VIEWS = SAME_ELEMENTS | {aten.unflatten.int}
_ALONG_HARMLESS = frozenset({aten.permute.default, aten.slice.Tensor, aten.select.int, aten.stack.default})
"""Operators whose `dim` names the batch without disturbing it: their shapes say what they do."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the B rows of a tensor are."""

    axis: int
    order: Literal["first", "last"] = "first"
    """An axis of size B·k counts rows first, (B, k), or last, (k, B)."""

    def first(self, tensor: Tensor, B: int) -> Tensor:
        """Return the tensor as (B, k, …), the other axes in their order."""
        moved = tensor.movedim(self.axis, 0)
        if len(moved) == B:
            return moved.unsqueeze(1)
        if self.order == "first":
            return moved.unflatten(0, (B, -1))
        return moved.unflatten(0, (-1, B)).movedim(1, 0)


UNKNOWN = Rows(-1)
"""Rows are in there, but where cannot be told."""


def rows_of(graph: Graph) -> dict[fx.Node, Rows | None]:
    """Return where the rows of each node's value are: None where it holds none, `UNKNOWN` where that cannot be told."""
    batches = {_size(node.meta["val"].shape[0]) for node, feed in graph.feeds.items() if feed.kind == "input"}
    found: dict[fx.Node, Rows | None] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            found[node] = Rows(0) if graph.feeds[node].kind == "input" else None
        else:
            found[node] = _followed(node, found, batches)
    return found


def _followed(node: fx.Node, found: dict[fx.Node, Rows | None], batches: set[sympy.Expr]) -> Rows | None:
    sources = [source for source in node.all_input_nodes if found.get(source) is not None]
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        if not sources or isinstance(value, int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool):
            return None
        return UNKNOWN if any(found[source] is UNKNOWN for source in sources) else Rows(0)
    if node.target is operator.getitem:
        if not sources or found[sources[0]] is UNKNOWN:
            return found[sources[0]] if sources else None
        operation = sources[0]
        sources = [source for source in operation.all_input_nodes if found.get(source) is not None]
    else:
        operation = node
    shape = [_size(size) for size in value.shape]
    axes = [axis for axis, size in enumerate(shape) if size.free_symbols & _symbols(batches)]
    if not sources:
        # A constant for each row, such as zeros to start from; where they follow another axis there is no telling.
        return None if not axes else Rows(axes[0]) if len(axes) == 1 and shape[axes[0]] in batches else UNKNOWN
    known = [(source, found[source]) for source in sources]
    unknown = any(rows is UNKNOWN or _works_along(operation, source, rows) for source, rows in known)
    if unknown or len(axes) != 1:
        return UNKNOWN
    (axis,) = axes
    times = _times(shape[axis], batches)
    if times is None:
        return UNKNOWN
    if operation.target in _VIEWS:
        (source, rows), *others = known
        return UNKNOWN if others else _viewed(source, rows, shape, axis, times, batches)
    if times == 1:
        exact = all(_sizes(source)[rows.axis] in batches for source, rows in known)
        return Rows(axis) if exact else UNKNOWN
    alike = {rows.order for source, rows in known if _sizes(source)[rows.axis] == shape[axis]}
    others = [source for source, rows in known if _sizes(source)[rows.axis] != shape[axis]]
    return Rows(axis, alike.pop()) if len(alike) == 1 and not others else UNKNOWN


def _viewed(
    source: fx.Node, rows: Rows, shape: list[sympy.Expr], axis: int, times: sympy.Expr, batches: set[sympy.Expr]
) -> Rows:
    sizes = _sizes(source)
    before = _product(sizes[: rows.axis])
    if rows.order == "last":
        before = before * _times(sizes[rows.axis], batches)
    preceding = _product(shape[:axis])
    if sympy.expand(before - preceding) == 0:
        return Rows(axis, "first")
    if sympy.expand(before - preceding * times) == 0:
        return Rows(axis, "last")
    return UNKNOWN


def _works_along(node: fx.Node, source: fx.Node, rows: Rows) -> bool:
    """Whether an operator is told to work along the rows of its input, or picks from them."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target in _VIEWS | _ALONG_HARMLESS:
        return False
    if node.target is aten.index.Tensor and argument(node, "self") is source:
        indices = argument(node, "indices")
        return rows.axis < len(indices) and indices[rows.axis] is not None
    dims = len(_sizes(source))
    return rows.axis in {dim % dims for dim in _dims(node) if dims}


def _dims(node: fx.Node) -> Iterator[int]:
    named: list[Any] = [argument(node, name) for name in ("dim", "dims")]
    for value in named:
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, int) and not isinstance(one, bool):
                yield one


def _times(size: sympy.Expr, batches: set[sympy.Expr]) -> sympy.Expr | None:
    """Return k where a size is k·B."""
    for batch in batches:
        times = sympy.cancel(size / batch)
        if not times.free_symbols & _symbols(batches) and times.is_integer is not False:
            return times
    return None


def _symbols(batches: set[sympy.Expr]) -> set[sympy.Symbol]:
    return set().union(*(batch.free_symbols for batch in batches))


def _sizes(node: fx.Node) -> list[sympy.Expr]:
    return [_size(size) for size in node.meta["val"].shape]


def _size(size: int | torch.SymInt) -> sympy.Expr:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr


def _product(sizes: list[sympy.Expr]) -> sympy.Expr:
    product = sympy.Integer(1)
    for size in sizes:
        product = product * size
    return product
