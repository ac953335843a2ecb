"""Which nodes are uses of a parameter that the engine understands, operator by operator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from undue_service.engine.activation import SAME_ELEMENTS
from undue_service.engine.graph import Graph, argument, aten
from undue_service.engine.rewrites import REWRITTEN

from .rows import UNKNOWN, Rows
from .uses import Broadcast, Convolution, Embedding, Product, Use, Value

_VALUES = frozenset({aten.to.dtype, aten.to.device, aten._to_copy.default, aten.clone.default, aten.contiguous.default})
"""Moves that leave positions as they are, and whose arguments mean nothing for them."""
_MOVES = (SAME_ELEMENTS - _VALUES) | {
    aten.t.default,
    aten.numpy_T.default,
    aten.transpose.int,
    aten.permute.default,
    aten.unflatten.int,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.flip.default,
    getitem,
}
_OTHERS = -1
"""The position of what is no part of the parameter."""
CONVOLUTIONS = frozenset(
    {
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv3d.default,
        aten.conv1d.padding,
        aten.conv2d.padding,
        aten.conv3d.padding,
        aten.convolution.default,
    }
)
NORMALISATIONS: Mapping[Any, str] = {
    aten.layer_norm.default: "last",
    aten.native_layer_norm.default: "last",
    aten.rms_norm.default: "last",
    aten.group_norm.default: "channel",
    aten.native_group_norm.default: "channel",
    aten.batch_norm.default: "channel",
    REWRITTEN[aten._native_batch_norm_legit_no_training.default]: "channel",
    aten.instance_norm.default: "channel",
}
"""Operator to the axes that its weight and bias lie along. They are its arguments of these names."""


@dataclass(frozen=True)
class _Site:
    """A node that takes a parameter as one of its arguments."""

    graph: Graph
    rows: Mapping[fx.Node, Rows | None]
    node: fx.Node
    operand: fx.Node
    """The parameter, moved."""
    slot: str
    """The argument that it is."""
    positions: Tensor
    """What the parameter, laid flat, has where: of the shape of the operand."""

    def rows_at(self, node: Any) -> Rows | None:
        """Return where a node's rows are; None where it has none or they cannot be told."""
        rows = self.rows.get(node) if isinstance(node, fx.Node) else None
        return None if rows is UNKNOWN else rows


def uses(graph: Graph, rows: Mapping[fx.Node, Rows | None], parameter: fx.Node) -> list[Use] | None:
    """Return every use that a graph makes of a parameter; None where one of them is not understood."""
    shape = parameter.meta["val"].shape
    positions = torch.arange(shape.numel()).reshape(shape)
    found: list[Use] = []
    if any(output is parameter for output in graph.outputs):
        return None
    for site in _sites(graph, rows, parameter, positions):
        use = None if site is None else _RECOGNISERS.get(site.node.target, _nothing)(site)
        if use is None:
            return None
        found.append(use)
    return found


def _sites(
    graph: Graph, rows: Mapping[fx.Node, Rows | None], parameter: fx.Node, positions: Tensor
) -> Iterator[_Site | None]:
    """Yield where a parameter is used, beyond what only moves it; None where it cannot be told how."""
    moved: dict[fx.Node, Any] = {parameter: positions}
    for node in graph.nodes:
        operands = [operand for operand in node.all_input_nodes if operand in moved]
        if not operands or node not in graph.reached:
            continue
        if node.target in _VALUES | _MOVES and node.all_input_nodes == operands:
            found = moved[operands[0]] if node.target in _VALUES else _moved(node, moved[operands[0]])
        elif node.target is aten.cat.default and all(rows.get(part) is None for part in node.all_input_nodes):
            found = _joined(node, moved)
        else:
            for operand in operands:
                slots, places = _slots(node, operand), moved[operand]
                whole = isinstance(places, Tensor) and bool((places != _OTHERS).all())
                yield _Site(graph, rows, node, operand, slots[0], places) if whole and len(slots) == 1 else None
            continue
        if any(output is node for output in graph.outputs):
            yield None
        if not (isinstance(found, Tensor) and bool((found == _OTHERS).all())):
            moved[node] = found


def _joined(node: fx.Node, moved: Mapping[fx.Node, Any]) -> Tensor:
    """Return what parts that hold no rows have where when they are joined, as the gates of a recurrent weight are."""

    def places(part: fx.Node) -> Any:
        return moved[part] if part in moved else torch.full(tuple(part.meta["val"].shape), _OTHERS)

    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), places)
    joined: Tensor = node.target(*args, **kwargs)
    return joined


def _moved(node: fx.Node, positions: Any) -> Any:
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda _: positions)
    return node.target(*args, **kwargs)


def _slots(node: fx.Node, operand: fx.Node) -> list[str]:
    if node.target in NORMALISATIONS:
        names = ["weight", "bias", "input"]
        return [name for name in names if _norm_argument(node, name) is operand]
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    return [formal.name for formal in node.target._schema.arguments if argument(node, formal.name) is operand]


def _linear(site: _Site) -> Use | None:
    if site.slot == "weight":
        W = site.positions
        return _product(site, argument(site.node, "input"), W if W.dim() == 2 else W[None], is_vector=W.dim() == 1)
    return _shift(site) if site.slot == "bias" else None


def _addmm(site: _Site) -> Use | None:
    if argument(site.node, "beta") != 1 or argument(site.node, "alpha") != 1:
        return None
    if site.slot == "mat2":
        return _product(site, argument(site.node, "mat1"), site.positions.T)
    return _shift(site) if site.slot == "self" else None


def _matmul(site: _Site) -> Use | None:
    x, second = site.node.args
    if second is not site.operand or site.positions.dim() > 2:
        return None
    vector = site.positions.dim() == 1
    return _product(site, x, site.positions[None] if vector else site.positions.T, is_vector=vector)


def _bmm(site: _Site) -> Use | None:
    """Core ATen writes x Wᵀ with x (T, B, I) as a batched product with W repeated."""
    W = site.positions
    if site.slot != "mat2" or not bool((W[:1] == W).all()):
        return None
    return _product(site, argument(site.node, "self"), W[0].T)


def _product(site: _Site, x: fx.Node, weight: Tensor, *, is_vector: bool = False) -> Use | None:
    x_rows, y_rows = site.rows_at(x), site.rows_at(site.node)
    if x_rows is None or y_rows is None or x_rows.axis == x.meta["val"].dim() - 1:
        return None
    return Product(weight[None], site.node, site.node, x, x_rows, y_rows, is_vector)


def _convolution(site: _Site) -> Use | None:
    node = site.node
    if site.slot == "bias":
        return _shift(site, site.positions.reshape(-1, *(1,) * (node.meta["val"].dim() - 2)))
    x, weight = argument(node, "input"), site.positions
    x_rows, d = site.rows_at(x), weight.dim() - 2
    batched = x.meta["val"].dim() == weight.dim()
    if site.slot != "weight" or not batched or x_rows is None or x_rows.axis != 0 or site.rows_at(node) is None:
        return None
    if argument(node, "transposed"):
        return None
    G, kernel = argument(node, "groups"), tuple(weight.shape[2:])
    stride, dilation = (_of_axes(argument(node, name), d) for name in ("stride", "dilation"))
    padding = _padding(argument(node, "padding"), kernel, dilation)
    return Convolution(
        weight.reshape(G, weight.shape[0] // G, -1), node, node, x, x_rows, kernel, stride, padding, dilation
    )


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if value == "valid":
        return tuple((0, 0) for _ in kernel)
    if value == "same":
        # torch puts the odd one after.
        totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in _of_axes(value, len(kernel)))


def _of_axes(value: Sequence[int], d: int) -> tuple[int, ...]:
    return tuple(value) if len(value) == d else tuple(value) * d


def _embedding(site: _Site) -> Use | None:
    node, ids = site.node, argument(site.node, "indices")
    ids_rows, y_rows = site.rows_at(ids), site.rows_at(node)
    by_frequency = argument(node, "scale_grad_by_freq") or argument(node, "sparse")
    if site.slot != "weight" or ids_rows is None or y_rows is None or by_frequency or site.positions.dim() != 2:
        return None
    return Embedding(site.positions, node, node, ids, ids_rows, y_rows, argument(node, "padding_idx"))


def _norm(site: _Site) -> Use | None:
    node = site.node
    output = node
    if not isinstance(node.meta["val"], Tensor):
        users = [user for user in node.users if user in site.graph.reached]
        if len(users) != 1 or users[0].target is not getitem or users[0].args[1] != 0:
            return None
        output = users[0]
    aligned = site.positions
    if NORMALISATIONS[node.target] == "channel":
        aligned = aligned.reshape(-1, *(1,) * (output.meta["val"].dim() - 2))
    if site.slot == "bias":
        return _shift(site, aligned, output=output)
    if site.slot != "weight":
        return None
    needs = tuple(source for source in node.all_input_nodes if source not in _affine(node))

    def normalised(value: Value) -> Tensor:
        plain = dict.fromkeys(_affine(node))
        args, kwargs = fx.node.map_arg(
            (node.args, dict(node.kwargs)), lambda one: plain[one] if one in plain else value(one)
        )
        found = node.target(*args, **kwargs)
        return found if isinstance(found, Tensor) else found[0]

    return _broadcast(site, aligned, output, multiplied=normalised, needs=needs)


def _affine(node: fx.Node) -> tuple[fx.Node, ...]:
    named = (_norm_argument(node, name) for name in ("weight", "bias"))
    return tuple(one for one in named if isinstance(one, fx.Node))


def _norm_argument(node: fx.Node, name: str) -> Any:
    if isinstance(node.target, torch._ops.OpOverload):
        return argument(node, name)
    return node.args[("input", "weight", "bias").index(name)]  # of the stand-in for frozen batch normalisation


def _add(site: _Site) -> Use | None:
    alpha = argument(site.node, "alpha")
    return _shift(site, factor=1.0 if site.slot == "self" else float(alpha))


def _sub(site: _Site) -> Use | None:
    alpha = argument(site.node, "alpha")
    return _shift(site, factor=1.0 if site.slot == "self" else -float(alpha))


def _mul(site: _Site) -> Use | None:
    other = argument(site.node, "other" if site.slot == "self" else "self")
    if not isinstance(other, fx.Node):
        return None
    return _broadcast(site, site.positions, site.node, multiplied=lambda value: value(other), needs=(other,))


def _shift(
    site: _Site, positions: Tensor | None = None, *, output: fx.Node | None = None, factor: float = 1.0
) -> Use | None:
    return _broadcast(site, site.positions if positions is None else positions, output or site.node, factor=factor)


def _broadcast(
    site: _Site,
    positions: Tensor,
    output: fx.Node,
    *,
    factor: float = 1.0,
    multiplied: Callable[[Value], Tensor] | None = None,
    needs: tuple[fx.Node, ...] = (),
) -> Use | None:
    rows, dims = site.rows_at(output), output.meta["val"].dim()
    if rows is None or positions.dim() > dims:
        return None
    aligned = positions.reshape((1,) * (dims - positions.dim()) + tuple(positions.shape))
    if aligned.shape[rows.axis] != 1:
        return None
    return Broadcast(aligned, site.node, output, rows, factor, multiplied, needs)


def _nothing(site: _Site) -> Use | None:  # noqa: ARG001 - stands for every other operator
    return None


_RECOGNISERS: Mapping[Any, Callable[[_Site], Use | None]] = {
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.mm.default: _matmul,
    aten.bmm.default: _bmm,
    aten.mv.default: _matmul,
    aten.matmul.default: _matmul,
    aten.embedding.default: _embedding,
    aten.add.Tensor: _add,
    aten.sub.Tensor: _sub,
    aten.mul.Tensor: _mul,
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(NORMALISATIONS, _norm),
}
