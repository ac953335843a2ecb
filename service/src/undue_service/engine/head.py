"""Linear heads: where the outputs are f = W x + b (+ what the selected parameters do not touch), and θ is W, b or both.

There the gradient of row i is r_i ⊗ x̃_i and the Hessian is (1/n) Σ_i w_i Σ_i ⊗ x̃_i x̃_iᵀ, with the residual r = ∂ℓ/∂f
(C), Σ = ∂²ℓ/∂f² (C, C) and the features x̃ (d): x with a 1 for the bias, as far as each is selected.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from .activation import SAME_ELEMENTS
from .graph import Graph, ancestors, argument, aten
from .parameters import ParameterSpace
from .program import Program

_TRANSPOSES = frozenset({aten.t.default, aten.numpy_T.default, aten.transpose.int, aten.permute.default})
_PRODUCTS = frozenset({aten.mm.default, aten.matmul.default, aten.mv.default})


@dataclass(frozen=True)
class LinearHead:
    """A linear head of C outputs and d features; P = C · d."""

    program: Program
    graph: Graph
    """Returns f, and x where W is selected."""
    has_weight: bool
    has_bias: bool
    positions: Tensor
    """Where θ holds the coefficient of feature j for output c, (C, d) int64: a permutation of 0…P−1."""

    @property
    def outputs(self) -> int:
        """Return C."""
        return self.positions.shape[0]

    @property
    def features(self) -> int:
        """Return d."""
        return self.positions.shape[1]

    def evaluate(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the features x̃ (B, d) and the outputs f (B, C) at the registered weights."""
        f, *x = self.program.evaluate(self.graph, {}, inputs)
        f = f.reshape(-1, self.outputs)
        ones = [f.new_ones(len(f), 1)] if self.has_bias else []
        return torch.cat([*x, *ones], dim=1), f

    def to_theta(self, values: Tensor) -> Tensor:
        """Return coefficients (C, d, …) in θ's order, (P, …)."""
        flat = torch.empty_like(values.reshape(-1, *values.shape[2:]))
        flat[self.positions.reshape(-1)] = values.reshape(-1, *values.shape[2:])
        return flat

    def from_theta(self, flat: Tensor) -> Tensor:
        """Return numbers in θ's order (P, …) as coefficients, (C, d, …)."""
        return flat[self.positions.reshape(-1)].reshape(*self.positions.shape, *flat.shape[1:])


@dataclass
class _Affine:
    """What was found on the way back from the outputs."""

    x: fx.Node | None = None
    weight: fx.Node | None = None
    transposed: bool = False
    """Whether the weight is stored (in, out)."""
    bias: fx.Node | None = None


def find_head(program: Program, space: ParameterSpace) -> LinearHead | None:
    """Return the linear head that the selected parameters are; None where the outputs are not linear in all of them.

    Found are linear, addmm, matmul, mm and mv with the weight as it is or transposed, with a bias inside or added, each
    parameter used once.
    """
    graph = program.graph
    placeholders = {feed.name: node for node, feed in graph.feeds.items() if feed.kind == "parameter"}
    selected = {placeholders[name]: name for name in space.names}
    if any(_users(graph, node) != 1 for node in selected):
        return None
    outputs = program.output_shape[0] if program.output_shape else 1
    affine = _Affine()
    if not _walk(graph.outputs[0], set(selected), outputs, affine):
        return None
    positions = []
    if affine.weight is not None:
        name = selected[affine.weight]
        own = torch.arange(space.slice(name).start, space.slice(name).stop).reshape(space.shapes[name])
        positions.append((own.T if affine.transposed else own) if own.dim() == 2 else own[None])
    if affine.bias is not None:
        place = space.slice(selected[affine.bias])
        positions.append(torch.arange(place.start, place.stop)[:, None])
    taps = [affine.x] if affine.weight is not None else []
    return LinearHead(
        program=program,
        graph=graph.ending_at(graph.outputs[0], *taps),
        has_weight=affine.weight is not None,
        has_bias=affine.bias is not None,
        positions=torch.cat(positions, dim=1).to(program.device),
    )


def _walk(node: fx.Node, waiting: set[fx.Node], outputs: int, found: _Affine) -> bool:
    """Follow the one path that the waiting parameters can be on; True once none waits any more."""
    while node.op == "call_function" and _is_rows_of(node, outputs):
        if node.target in SAME_ELEMENTS:
            node = node.args[0]
        elif node.target is aten.add.Tensor and argument(node, "alpha") == 1:
            left, right = node.args
            if right in waiting or not _depends(right, waiting):
                node, other = left, right
            else:
                node, other = right, left
            if other in waiting:
                if not _is_bias(other, outputs):
                    return False
                found.bias = other
                waiting.discard(other)
            elif _depends(other, waiting):
                return False
            if not waiting:
                return True
            if not isinstance(node, fx.Node):
                return False
        else:
            return _match(node, waiting, outputs, found)
    return False


def _match(node: fx.Node, waiting: set[fx.Node], outputs: int, found: _Affine) -> bool:
    if node.target is aten.linear.default:
        x, weight, bias, stored_out_in = argument(node, "input"), argument(node, "weight"), argument(node, "bias"), True
    elif node.target is aten.addmm.default and argument(node, "beta") == 1 and argument(node, "alpha") == 1:
        x, weight, bias, stored_out_in = argument(node, "mat1"), argument(node, "mat2"), argument(node, "self"), False
    elif node.target in _PRODUCTS:
        x, weight, bias, stored_out_in = node.args[0], node.args[1], None, False
    else:
        return False
    if bias in waiting:
        if not _is_bias(bias, outputs):
            return False
        found.bias = bias
        waiting.discard(bias)
    flips = 0
    while (
        isinstance(weight, fx.Node)
        and weight.target in _TRANSPOSES
        and weight.meta["val"].dim() == 2
        and _swaps(weight)
    ):
        weight, flips = weight.args[0], flips + 1
    if weight in waiting:
        if weight.meta["val"].dim() not in (1, 2) or x.meta["val"].dim() != 2:
            return False
        found.x, found.weight, found.transposed = x, weight, stored_out_in == bool(flips % 2)
        waiting.discard(weight)
    return not waiting


def _users(graph: Graph, node: fx.Node) -> int:
    """Return how often the graph uses a node."""
    uses = sum(_uses(user, node) for user in node.users if user in graph.reached)
    return uses + sum(output is node for output in graph.outputs)


def _uses(user: fx.Node, node: fx.Node) -> int:
    count = 0

    def visit(value: fx.Node) -> fx.Node:
        nonlocal count
        count += value is node
        return value

    fx.node.map_arg((user.args, dict(user.kwargs)), visit)
    return count


def _depends(value: object, parameters: set[fx.Node]) -> bool:
    return isinstance(value, fx.Node) and bool(parameters & ancestors((value,)))


def _is_rows_of(node: fx.Node, outputs: int) -> bool:
    shape = tuple(node.meta["val"].shape)
    per_row = shape[1:] == (outputs,) or (outputs == 1 and len(shape) in (1, 2) and shape[1:] in ((), (1,)))
    return bool(shape) and not isinstance(shape[0], int) and per_row


def _is_bias(node: fx.Node, outputs: int) -> bool:
    shape = tuple(node.meta["val"].shape)
    return node.meta["val"].numel() == outputs and (not shape or shape[-1] == outputs)


def _swaps(node: fx.Node) -> bool:
    if node.target is aten.transpose.int:
        return {argument(node, "dim0") % 2, argument(node, "dim1") % 2} == {0, 1}
    if node.target is aten.permute.default:
        return [dim % 2 for dim in argument(node, "dims")] == [1, 0]
    return True
