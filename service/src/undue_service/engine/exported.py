"""What an exported program says of itself: what it takes, holds and returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree

from undue_service.domain.errors import InvalidArgument, Reason

from .graph import Feed, Graph, unsupported

_EXPORT_LINE = "torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a program."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Shape of one row; -1 where any size will do."""


def read_feeds(
    exported: ExportedProgram, input_names: Sequence[str] | None
) -> tuple[dict[str, Feed], dict[Feed, Tensor]]:
    """Return what each placeholder receives, by the placeholder's name, and the tensors that the program holds."""
    feeds: dict[str, Feed] = {}
    tensors: dict[Feed, Tensor] = {}
    names = iter(input_names) if input_names is not None else None
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, exported.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            if not isinstance(node.meta.get("val"), Tensor):
                raise unsupported(
                    f"the input {node.name!r} is not a tensor; export a model whose inputs are all tensors"
                )
            name = next(names, None) if names is not None else str(spec.arg.name)
            if name is None:
                raise unsupported("the program has more inputs than there are names for them")
            feeds[node.name] = Feed("input", name)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            feed = Feed("parameter" if spec.kind is InputKind.PARAMETER else "constant", str(spec.target))
            feeds[node.name] = feed
            tensors[feed] = (exported.state_dict if spec.target in exported.state_dict else exported.constants)[
                spec.target
            ].detach()
        else:
            raise unsupported(
                f"the program takes a {spec.kind.name}, {spec.target!r}; only tensors are understood here"
            )
    return feeds, tensors


def read_output_names(exported: ExportedProgram, count: int) -> tuple[str, ...]:
    """Return a name for each output: `output` for a single one, an entry's key, or its place."""
    tree = exported.call_spec.out_spec
    if count == 1 or tree is None or tree.num_leaves != count:
        return ("output",) if count == 1 else tuple(f"output_{i}" for i in range(count))
    leaves, _ = _pytree.tree_flatten_with_path(_pytree.tree_unflatten(range(count), tree))
    names = []
    for path, position in leaves:
        keys = [str(key.key) for key in path if isinstance(key, _pytree.MappingKey)]
        names.append(".".join(keys) if len(keys) == len(path) else f"output_{position}")
    return tuple(names)


def choose_output(output: str | None, names: tuple[str, ...]) -> str:
    """Return the name of the output that is the prediction.

    Raises:
        InvalidArgument: OUTPUT_AMBIGUOUS.
    """
    there_are = ", ".join(repr(name) for name in names)
    if output is None and len(names) != 1:
        text = f"the model has several outputs, {there_are}: name the one that is the prediction with output="
        raise InvalidArgument.at("output", text, Reason.OUTPUT_AMBIGUOUS)
    if output is not None and output not in names:
        text = f"the model has no output {output!r}; there is {there_are}"
        raise InvalidArgument.at("output", text, Reason.OUTPUT_AMBIGUOUS)
    return names[0] if output is None else output


def read_input(name: str, node: fx.Node) -> InputSpec:
    """Return one input.

    Raises:
        InvalidArgument: STATIC_BATCH where its first axis has a fixed size.
    """
    value = node.meta["val"]
    if value.dim() == 0 or not isinstance(value.shape[0], torch.SymInt):
        shape = tuple(value.shape)
        raise InvalidArgument(
            Reason.STATIC_BATCH,
            f"the model's input {name!r} has the fixed shape {shape}; export it with a dynamic batch axis: "
            f"{_EXPORT_LINE}",
            metadata={"input": name},
        )
    return InputSpec(name, value.dtype, tuple(size if isinstance(size, int) else -1 for size in value.shape[1:]))


def read_output_shape(graph: Graph, output: str) -> tuple[int, ...]:
    """Return the shape of one row of the prediction.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED where it does not hold one prediction for each input row.
    """
    value = graph.outputs[0].meta.get("val")
    batches = [node.meta["val"].shape[0] for node, feed in graph.feeds.items() if feed.kind == "input"]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise unsupported(f"the output {output!r} is not a floating tensor")
    per_row = value.dim() > 0 and any(_same_size(value.shape[0], batch) for batch in batches)
    if not per_row:
        raise unsupported(
            f"the output {output!r} of shape {tuple(value.shape)} does not hold one prediction for each input row"
        )
    return tuple(size if isinstance(size, int) else -1 for size in value.shape[1:])


def _same_size(a: int | torch.SymInt, b: int | torch.SymInt) -> bool:
    return isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt) and a.node.expr == b.node.expr


def tie(graph: Graph, tensors: Mapping[Feed, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the parameters, each memory once under its first name, and the other names."""
    parameters: dict[str, Tensor] = {}
    owners: dict[tuple[Any, ...], str] = {}
    reached = {feed for feed in graph.feeds.values() if feed.kind == "parameter"}
    for feed in sorted((feed for feed in tensors if feed.kind == "parameter"), key=lambda feed: feed not in reached):
        tensor = tensors[feed]
        memory = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        owner = owners.setdefault(memory, feed.name)
        if owner == feed.name and feed in reached:
            parameters[feed.name] = tensor
    aliases = {}
    for feed, tensor in tensors.items():
        memory = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        owner = owners.get(memory, feed.name)
        if feed.kind == "parameter" and owner != feed.name and owner in parameters:
            aliases[feed.name] = owner
    return parameters, aliases


def rename(graph: Graph, aliases: Mapping[str, str]) -> Graph:
    """Return the graph with each parameter under its first name."""
    feeds = {
        node.name: replace(feed, name=aliases.get(feed.name, feed.name)) if feed.kind == "parameter" else feed
        for node, feed in graph.feeds.items()
    }
    return Graph(graph.outputs[0].graph, feeds, graph.outputs)
