"""Where a cold start begins: a file's weights, or weights drawn as torch draws a new layer's.

A tap's weight is kaiming_uniform(a=√5) and its bias U(±1/√fan_in), which makes both U(±1/√fan_in); an embedding is
normal with a row of zeros for padding; a normalisation is 1 and 0, a PReLU ¼. What a parameter is, is read off the
operators of the graph that use it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.activation import SAME_ELEMENTS
from undue_service.engine.graph import Graph, argument
from undue_service.engine.objective import Objective
from undue_service.engine.rewrites import REWRITTEN, aten

from .training import Recipe

_TRANSPOSES = frozenset({aten.t.default, aten.numpy_T.default, aten.transpose.int, aten.permute.default})
_PRODUCTS = frozenset({aten.mm.default, aten.matmul.default, aten.mv.default})
_CONVOLUTIONS = frozenset(
    {
        aten.convolution.default,
        *(getattr(aten, f"conv{rank}d").default for rank in (1, 2, 3)),
        *(getattr(aten, f"conv{rank}d").padding for rank in (1, 2, 3)),
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
    }
)
_NORMALISATIONS = frozenset(
    {
        aten.batch_norm.default,
        aten.layer_norm.default,
        aten.native_layer_norm.default,
        aten.group_norm.default,
        aten.native_group_norm.default,
        aten.instance_norm.default,
        aten.rms_norm.default,
    }
)
_FROZEN_NORMALISATION = REWRITTEN[aten._native_batch_norm_legit_no_training.default]
_ADDITIONS = frozenset({aten.add.Tensor})


@dataclass(frozen=True)
class Uniform:
    """U(±1/√fan_in)."""

    fan_in: int

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return a value."""
        unit = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (2 * unit - 1) / math.sqrt(self.fan_in)


@dataclass(frozen=True)
class Normal:
    """N(0, 1), but 0 in the row of the padding."""

    padding: int

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return a value."""
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.padding >= 0:
            value[self.padding] = 0
        return value


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return a value."""
        return torch.full(shape, self.value, dtype=torch.float64)


Initial = Uniform | Normal | Constant


def has_cold_start(recipe: Recipe) -> bool:
    """Return whether a recipe says where a cold start begins."""
    return recipe.init is not None or recipe.spec.init is not None


def cold_start(objective: Objective, recipe: Recipe, seed: int) -> Tensor:
    """Return the selected parameters at the beginning of a cold start, θ (P,).

    Args:
        objective: what is trained; parameters that are not selected keep their registered values.
        recipe: a file's weights, or the name of an initialiser.
        seed: of the named initialiser. Weights of a file are the same for every seed.

    Raises:
        FailedPrecondition: RECIPE_MISSING where the recipe has no initialiser, WEIGHTS_MISMATCH where the file lacks a
            parameter or has it in another shape, RETRAIN_UNSUPPORTED where it cannot be told how one is drawn.
    """
    if recipe.init is not None:
        return _loaded(objective, recipe.init)
    if recipe.spec.init != "torch":
        text = (
            "the registered recipe does not say where a cold start begins: register training=undue.Training(…, "
            'init="torch") or a file of initial weights, or pass start="warm"'
        )
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)
    generator = torch.Generator().manual_seed(seed)
    roles = _roles(objective)
    drawn = {name: roles[name].draw(objective.space.shapes[name], generator) for name in objective.space.names}
    return objective.space.flatten(drawn).to(objective.theta)


def _loaded(objective: Objective, weights: Mapping[str, Tensor]) -> Tensor:
    found = {}
    for name in objective.space.names:
        called = [name, *(alias for alias, owner in objective.program.aliases.items() if owner == name)]
        value = next((weights[one] for one in called if one in weights), None)
        shape = objective.space.shapes[name]
        if value is None or tuple(value.shape) != shape:
            has = "lacks it" if value is None else f"has it in the shape {tuple(value.shape)}"
            text = f"a cold start needs the parameter {name!r} of shape {shape}, and the file of initial weights {has}"
            raise FailedPrecondition(Reason.WEIGHTS_MISMATCH, text, metadata={"parameter": name})
        found[name] = value.to(objective.theta)
    return objective.space.flatten(found)


def _roles(objective: Objective) -> dict[str, Initial]:
    graph = objective.program.graph
    placeholders = {feed.name: node for node, feed in graph.feeds.items() if feed.kind == "parameter"}
    roles: dict[str, Initial] = {}
    for name in objective.space.names:
        found = set(_uses(graph, placeholders[name], placeholders[name]))
        known = found - {None}
        if len(found) != 1 or len(known) != 1:
            why = "is used in several ways" if len(known) > 1 else "is not the weight or bias of a layer that is known"
            text = (
                f'the initialiser "torch" cannot draw the parameter {name!r}, which {why}: register the recipe with a '
                'file of initial weights, init=, retrain from the registered weights, start="warm", or leave the '
                "parameter out with parameters="
            )
            raise FailedPrecondition(Reason.RETRAIN_UNSUPPORTED, text, metadata={"parameter": name})
        roles[name] = known.pop()
    return roles


def _uses(graph: Graph, node: fx.Node, parameter: fx.Node) -> Iterator[Initial | None]:
    """Yield what each operator that uses a parameter, as it is or transposed or reshaped as `node`, makes of it."""
    for user in node.users:
        if user not in graph.reached:
            continue
        if user.target in SAME_ELEMENTS | _TRANSPOSES:
            yield from _uses(graph, user, parameter)
        else:
            yield _use(user, node)


def _use(user: fx.Node, node: fx.Node) -> Initial | None:
    if user.target in _NORMALISATIONS or user.target is _FROZEN_NORMALISATION:
        scale, shift = _scale_and_shift(user)
        return Constant(1.0) if node is scale else Constant(0.0) if node is shift else None
    if user.target is aten.embedding.default:
        return Normal(int(argument(user, "padding_idx"))) if node is argument(user, "weight") else None
    if user.target is aten.prelu.default:
        return Constant(0.25) if node is argument(user, "weight") else None
    if user.target in _ADDITIONS:
        other = next((one for one in user.args[:2] if one is not node), None)
        fan_in, bias = _product(_behind(other))
        return Uniform(fan_in) if fan_in and bias is None else None
    fan_in, bias = _product(user)
    return Uniform(fan_in) if fan_in and (node is bias or node is _weight(user)) else None


def _scale_and_shift(user: fx.Node) -> tuple[object, object]:
    if user.target is _FROZEN_NORMALISATION:
        return user.args[1], user.args[2]
    return argument(user, "weight"), argument(user, "bias")


def _weight(node: fx.Node) -> object:
    if node.target in _PRODUCTS:
        return node.args[1]
    return argument(node, "mat2" if node.target is aten.addmm.default else "weight")


def _product(node: object) -> tuple[int, object]:
    """Return how many numbers each output of a tap sums, 0 where it is none, and the bias that it adds itself."""
    if not isinstance(node, fx.Node):
        return 0, None
    sums: Mapping[object, Callable[[tuple[int, ...]], int]] = {
        aten.linear.default: lambda shape: shape[-1],
        aten.addmm.default: lambda shape: shape[0],
        **dict.fromkeys(_PRODUCTS, lambda shape: shape[0] if len(shape) < 3 else 0),
        **dict.fromkeys(_CONVOLUTIONS, lambda shape: math.prod(shape[1:])),
    }
    if node.target not in sums:
        return 0, None
    weight = _weight(node)
    if not isinstance(weight, fx.Node) or not all(isinstance(size, int) for size in weight.meta["val"].shape):
        return 0, None
    bias = None
    if node.target not in _PRODUCTS:
        bias = argument(node, "self" if node.target is aten.addmm.default else "bias")
    return sums[node.target](tuple(weight.meta["val"].shape)), bias


def _behind(node: object) -> object:
    while isinstance(node, fx.Node) and node.target in SAME_ELEMENTS:
        node = node.args[0]
    return node
