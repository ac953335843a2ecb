"""The taps of a program: θ as blocks, and the uses that make up the gradient of each."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from undue_service.engine.activation import SAME_ELEMENTS
from undue_service.engine.graph import Graph, argument, aten
from undue_service.engine.parameters import ParameterSpace
from undue_service.engine.program import Program

from .capture import Tap, Taps
from .parts import Block
from .recognise import uses
from .rows import rows_of
from .uses import Broadcast, Convolution, Embedding, Product, Use

_Weights = Product | Convolution


def find_taps(program: Program, space: ParameterSpace, l2: Tensor) -> Taps:
    """Return the blocks of θ and their uses.

    A weight and its bias are one block where every use of the one is a use of the other and L2 treats them alike. A
    parameter with a use that is not understood, or whose rows cannot be told apart, is left to `vmap(grad)`.

    Args:
        program: whose graph is searched.
        space: the selected parameters.
        l2: l2 · mask, (P,).
    """
    graph = program.graph
    rows = rows_of(graph)
    placeholders = {feed.name: node for node, feed in graph.feeds.items() if feed.kind == "parameter"}
    found = {name: uses(graph, rows, placeholders[name]) for name in space.names}
    own = {
        name: torch.arange(space.slice(name).start, space.slice(name).stop, device=l2.device) for name in space.names
    }
    strength = {name: float(l2[places[0]]) if len(places) else 0.0 for name, places in own.items()}
    numel = {name: len(places) for name, places in own.items()}
    folded = _folded(graph, {name: some for name, some in found.items() if some}, numel, strength)
    taps = tuple(
        _tap(name, own, strength[name], found[name] or (), folded.get(name))
        for name in space.names
        if name not in folded.values()
    )
    return Taps.of(program, space, taps, tuple(name for name, some in found.items() if some is None))


def _tap(name: str, own: Mapping[str, Tensor], l2: float, some: Sequence[Use], bias: str | None) -> Tap:
    flat = own[name]
    if _is_weight(some, len(flat)):
        first = some[0].positions
        positions = flat[first.to(flat.device)]
        if bias is not None:
            positions = torch.cat([positions, own[bias].reshape(*positions.shape[:2], 1)], dim=2)
        names = (name,) if bias is None else (name, bias)
        block = Block(names, "outer", tuple(positions.shape), positions.reshape(-1), l2, bias is not None)
        return Tap(block, tuple(some), tuple(not torch.equal(use.positions, first) for use in some))
    if some and all(isinstance(use, Embedding) and _in_order(use.positions, len(flat)) for use in some):
        return Tap(Block((name,), "lookup", tuple(some[0].positions.shape), flat, l2), tuple(some))
    return Tap(Block((name,), "dense", (len(flat),), flat, l2), tuple(some))


def _is_weight(some: Sequence[Use], numel: int) -> bool:
    """Whether all uses are products with one whole weight, as it is or transposed."""
    if not some or not all(isinstance(use, _Weights) for use in some):
        return False
    first = some[0].positions
    whole = torch.equal(first.reshape(-1).sort().values, torch.arange(numel))
    return whole and all(
        torch.equal(use.positions, first) or (len(first) == 1 and torch.equal(use.positions, first.mT)) for use in some
    )


def _in_order(positions: Tensor, numel: int) -> bool:
    return torch.equal(positions.reshape(-1), torch.arange(numel))


def _folded(
    graph: Graph, found: Mapping[str, Sequence[Use]], numel: Mapping[str, int], l2: Mapping[str, float]
) -> dict[str, str]:
    """Return weight to bias, where the two are one block."""
    owners: dict[fx.Node, tuple[str, _Weights]] = {}
    for name, some in found.items():
        if _is_weight(some, numel[name]) and all(torch.equal(use.positions, some[0].positions) for use in some):
            owners.update((use.node, (name, use)) for use in some)
    folded: dict[str, str] = {}
    for bias, some in found.items():
        owned = [_owner(graph, use, owners) for use in some]
        names = {owners[node][0] for node in owned if node is not None}
        if len(names) != 1 or None in owned:
            continue
        (weight,) = names
        outputs = found[weight][0].positions.shape[:2].numel()
        fits = numel[bias] == outputs and all(_in_order(use.positions, outputs) for use in some)
        same_uses = sorted(use.node.name for use in found[weight]) == sorted(node.name for node in owned)
        if fits and same_uses and l2[weight] == l2[bias] and weight not in folded:
            folded[weight] = bias
    return folded


def _owner(graph: Graph, use: Use, owners: Mapping[fx.Node, tuple[str, _Weights]]) -> fx.Node | None:
    """Return the product that a bias belongs to: the node itself, or the one that the node adds it to."""
    if not isinstance(use, Broadcast) or use.multiplied is not None or use.factor != 1:
        return None
    if use.node in owners:
        return use.node
    if use.node.target is not aten.add.Tensor or argument(use.node, "alpha") != 1:
        return None
    for summand in use.node.args:
        product = _behind_views(graph, summand, use.node)
        if product in owners:
            weight = owners[product][1]
            axis = 1 if isinstance(weight, Convolution) else -1
            is_vector = isinstance(weight, Product) and weight.is_vector
            by_output = use.positions.numel() == (1 if is_vector else use.positions.shape[axis])
            same = summand.meta["val"].shape == use.node.meta["val"].shape
            in_place = product is summand or (isinstance(weight, Product) and not is_vector)
            return product if same and by_output and in_place else None
    return None


def _behind_views(graph: Graph, node: object, user: fx.Node) -> fx.Node | None:
    """Return what a node shows in another shape, if nobody else sees it."""
    while isinstance(node, fx.Node):
        others = [one for one in node.users if one in graph.reached and one is not user]
        if others or node in graph.outputs:
            return None
        if node.target not in SAME_ELEMENTS:
            return node
        node, user = node.args[0], node
    return None
