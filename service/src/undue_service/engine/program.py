"""A model as the engine sees it: named parameters, named inputs, and one pure function from them to the prediction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree

from undue_service.domain.errors import InvalidArgument, Reason

from .graph import Feed, Graph, argument, aten, unsupported
from .rewrites import REWRITTEN

Activation = Literal["", "softmax", "log_softmax", "sigmoid"]

_EXPORT_LINE = "torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"
_SOFTMAX: Mapping[Any, Activation] = {aten.softmax.int: "softmax", aten._softmax.default: "softmax"}
_LOG_SOFTMAX: Mapping[Any, Activation] = {aten.log_softmax.int: "log_softmax", aten._log_softmax.default: "log_softmax"}
_SAME_VALUES = frozenset(
    {
        aten.to.dtype,
        aten.to.device,
        aten._to_copy.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.alias.default,
    }
)
_FROZEN_NORMALISATIONS = frozenset(
    {aten.batch_norm.default, REWRITTEN[aten._native_batch_norm_legit_no_training.default]}
)
SAME_ELEMENTS = _SAME_VALUES | {
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.unsqueeze.default,
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
}
"""Operators that hand on their input's elements in order, whatever the shape."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a program."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    """Shape of one row; -1 where any size will do."""


@dataclass(frozen=True)
class Program:
    """A model: named parameters and constants, named inputs, and the graph from them to the prediction.

    Build it with `from_exported`. It never changes: `to`, `behind_activation` return another.
    """

    graph: Graph
    parameters: Mapping[str, Tensor]
    """Those that the prediction depends on, each once: weights that share memory are one parameter."""
    constants: Mapping[str, Tensor]
    """Buffers and tensors baked into the graph."""
    aliases: Mapping[str, str]
    """Other name to parameter name, for weights that share memory."""
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    output: str
    """Name of the output that is the prediction."""
    output_shape: tuple[int, ...]
    """Shape of one row of the prediction; -1 where any size will do."""
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def from_exported(
        cls,
        exported: ExportedProgram,
        output: str | None = None,
        *,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> "Program":
        """Wrap an exported program in the training IR, whose first axis of every input is a dynamic batch.

        Args:
            exported: the program; no name in it is executed or evaluated.
            output: name of the output that is the prediction; needed where there are several. Without `output_names` a
                single output is called `output`, an entry of a dictionary by its key, and the i-th of a tuple
                `output_{i}`.
            input_names: the inputs' names, where the model's file has better ones than the graph.
            output_names: likewise for the outputs, in order.

        Raises:
            InvalidArgument: OUTPUT_AMBIGUOUS; STATIC_BATCH; MODEL_UNSUPPORTED where the program keeps state, draws
                random numbers, takes something other than tensors, or does not predict one row for each input row.
        """
        signature = exported.graph_signature
        for spec in signature.output_specs:
            if spec.kind is not OutputKind.USER_OUTPUT:
                raise unsupported(
                    f"the program changes its state ({spec.kind.name} of {spec.target}); call model.eval() before "
                    "exporting"
                )
        feeds, tensors = _feeds(exported, input_names)
        graph = Graph.pure(exported.graph, feeds)
        names = tuple(output_names) if output_names is not None else _output_names(exported, len(graph.outputs))
        if len(names) != len(graph.outputs):
            raise unsupported(
                f"the program has {len(graph.outputs)} tensor outputs, but {len(names)} names: {', '.join(names)}"
            )
        output = _choose(output, names)
        graph = graph.ending_at(graph.outputs[names.index(output)])
        inputs = tuple(_input(feed.name, node) for node, feed in graph.feeds.items() if feed.kind == "input")
        if not inputs:
            raise unsupported(f"the output {output!r} does not depend on any input")
        parameters, aliases = _tie(graph, tensors)
        floating = next((tensor for tensor in parameters.values() if tensor.is_floating_point()), None)
        return cls(
            graph=_rename(graph, aliases),
            parameters=parameters,
            constants={feed.name: tensors[feed] for feed in graph.feeds.values() if feed.kind == "constant"},
            aliases=aliases,
            inputs=inputs,
            outputs=names,
            output=output,
            output_shape=_output_shape(graph, output),
            dtype=floating.dtype if floating is not None else torch.get_default_dtype(),
            device=floating.device if floating is not None else torch.device("cpu"),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Program":
        """Return the program on a device, with floating tensors and the graph's baked floating dtypes in `dtype`."""
        device = torch.device(device)

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)

        return replace(
            self,
            graph=self.graph.cast(device, dtype),
            parameters={name: cast(tensor) for name, tensor in self.parameters.items()},
            constants={name: cast(tensor) for name, tensor in self.constants.items()},
            inputs=tuple(
                replace(spec, dtype=dtype if spec.dtype.is_floating_point else spec.dtype) for spec in self.inputs
            ),
            dtype=dtype,
            device=device,
        )

    def at(self, parameters: Mapping[str, Tensor]) -> "Program":
        """Return the program with other values of its parameters, each by its name or by one of its other names.

        Constants that are given too change with them, and the running statistics of a normalisation have to be.

        Raises:
            InvalidArgument: WEIGHTS_MISMATCH where a parameter or a running statistic is missing, something has another
                shape or holds another kind of numbers, or weights that share memory are given different values.
        """
        given: dict[str, Tensor] = {}
        for name, tensor in parameters.items():
            owner = self.aliases.get(name, name)
            same = given.get(owner, tensor)
            if same.dtype != tensor.dtype or not torch.equal(same, tensor):
                text = f"{owner!r} and {name!r} are the same weights of the model, and those given differ"
                raise InvalidArgument(Reason.WEIGHTS_MISMATCH, text, metadata={"parameter": owner})
            given[owner] = tensor
        needed = {*self.parameters, *self._running_statistics()}
        return replace(
            self,
            parameters={name: _fitting(name, own, given) for name, own in self.parameters.items()},
            constants={
                name: _fitting(name, own, given) if name in given or name in needed else own
                for name, own in self.constants.items()
            },
        )

    def _running_statistics(self) -> set[str]:
        """Return the names of the constants that frozen normalisations divide and subtract by."""
        return {
            self.graph.feeds[source].name
            for node in self.graph.nodes
            if node.target in _FROZEN_NORMALISATIONS
            for source in node.args[3:5]
            if source in self.graph.feeds and self.graph.feeds[source].kind == "constant"
        }

    def forward(self, parameters: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the prediction, (B, *output_shape).

        A pure function that `torch.func` may transform; a batch of one is a batch like any other.

        Args:
            parameters: by name; one that is missing keeps its registered value.
            inputs: by name, (B, *shape) each.
        """
        return self.evaluate(self.graph, parameters, inputs)[0]

    def evaluate(
        self,
        graph: Graph,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        watched: Collection[fx.Node] = (),
    ) -> tuple[Tensor, ...]:
        """Run a part of the program's graph, made by `graph.ending_at`; `watched` values shall require a gradient."""

        def value(feed: Feed) -> Tensor:
            if feed.kind == "input":
                return inputs[feed.name]
            if feed.kind == "constant":
                return self.constants[feed.name]
            return parameters[feed.name] if feed.name in parameters else self.parameters[feed.name]

        return graph(value, watched)

    @property
    def output_activation(self) -> Activation:
        """The softmax, log-softmax or sigmoid that ends the model; empty for none."""
        activation, _ = _final_activation(self.graph)
        return activation

    def behind_activation(self) -> "Program":
        """Return the program whose prediction is what the final activation receives: the logits."""
        _, nodes = _final_activation(self.graph)
        return replace(self, graph=self.graph.without(*nodes))


def _fitting(name: str, own: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """Return the value that is given of a tensor, as the program holds its own."""
    value = given.get(name)
    kind = None if value is None else value.is_floating_point()
    if value is not None and value.shape == own.shape and kind == own.is_floating_point() and not value.is_complex():
        return value.detach().to(own.device, own.dtype)
    if value is None:
        listed = ", ".join(sorted(given)[:5]) + (", …" if len(given) > 5 else "")
        found = f"none are given of that name, but of {listed}" if given else "none are given"
    else:
        found = f"those given have the shape {tuple(value.shape)}, {_dtype(value)}"
    text = f"the model's weights {name!r} have the shape {tuple(own.shape)}, {_dtype(own)}; {found}"
    raise InvalidArgument(Reason.WEIGHTS_MISMATCH, text, metadata={"parameter": name})


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _feeds(exported: ExportedProgram, input_names: Sequence[str] | None) -> tuple[dict[str, Feed], dict[Feed, Tensor]]:
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


def _output_names(exported: ExportedProgram, count: int) -> tuple[str, ...]:
    tree = exported.call_spec.out_spec
    if count == 1 or tree is None or tree.num_leaves != count:
        return ("output",) if count == 1 else tuple(f"output_{i}" for i in range(count))
    leaves, _ = _pytree.tree_flatten_with_path(_pytree.tree_unflatten(range(count), tree))
    names = []
    for path, position in leaves:
        keys = [str(key.key) for key in path if isinstance(key, _pytree.MappingKey)]
        names.append(".".join(keys) if len(keys) == len(path) else f"output_{position}")
    return tuple(names)


def _choose(output: str | None, names: tuple[str, ...]) -> str:
    there_are = ", ".join(repr(name) for name in names)
    if output is None and len(names) != 1:
        text = f"the model has several outputs, {there_are}: name the one that is the prediction with output="
        raise InvalidArgument.at("output", text, Reason.OUTPUT_AMBIGUOUS)
    if output is not None and output not in names:
        text = f"the model has no output {output!r}; there is {there_are}"
        raise InvalidArgument.at("output", text, Reason.OUTPUT_AMBIGUOUS)
    return names[0] if output is None else output


def _input(name: str, node: fx.Node) -> InputSpec:
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


def _output_shape(graph: Graph, output: str) -> tuple[int, ...]:
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


def _tie(graph: Graph, tensors: Mapping[Feed, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
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


def _rename(graph: Graph, aliases: Mapping[str, str]) -> Graph:
    feeds = {
        node.name: replace(feed, name=aliases.get(feed.name, feed.name)) if feed.kind == "parameter" else feed
        for node, feed in graph.feeds.items()
    }
    return Graph(graph.outputs[0].graph, feeds, graph.outputs)


def _final_activation(graph: Graph) -> tuple[Activation, tuple[fx.Node, ...]]:
    """Find the activation that ends the graph, and the nodes to take out for what lies behind it."""
    node = graph.outputs[0]
    reshaped = False
    while node.op == "call_function" and node.target in SAME_ELEMENTS:
        reshaped = reshaped or node.target not in _SAME_VALUES
        node = node.args[0]
    if node.op != "call_function":
        return "", ()
    if node.target is aten.sigmoid.default:
        return "sigmoid", (node,)
    if reshaped:
        return "", ()
    if node.target in _LOG_SOFTMAX and _over_classes(node):
        return "log_softmax", (node,)
    if node.target in _SOFTMAX and _over_classes(node):
        return "softmax", (node,)
    inner = node.args[0] if node.target is aten.log.default else None
    if isinstance(inner, fx.Node) and inner.target in _SOFTMAX and _over_classes(inner):
        return "log_softmax", (node, inner)
    return "", ()


def _over_classes(node: fx.Node) -> bool:
    return node.meta["val"].dim() == 2 and argument(node, "dim") in (1, -1)
