"""A model as the engine sees it: named parameters, named inputs, and one pure function from them to the prediction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from undue_service.domain.errors import InvalidArgument, Reason

from .activation import Activation, final_activation, score_of_two_classes
from .exported import (
    InputSpec,
    choose_output,
    read_feeds,
    read_input,
    read_output_names,
    read_output_shape,
    rename,
    tie,
)
from .graph import Feed, Graph, aten, unsupported
from .rewrites import REWRITTEN

_FROZEN_NORMALISATIONS = frozenset(
    {aten.batch_norm.default, REWRITTEN[aten._native_batch_norm_legit_no_training.default]}
)


@dataclass(frozen=True)
class Program:
    """A model: named parameters and constants, named inputs, and the graph from them to the prediction.

    Build it with `from_exported`. It never changes: `to`, `behind` return another.
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
        feeds, tensors = read_feeds(exported, input_names)
        graph = Graph.pure(exported.graph, feeds)
        names = tuple(output_names) if output_names is not None else read_output_names(exported, len(graph.outputs))
        if len(names) != len(graph.outputs):
            raise unsupported(
                f"the program has {len(graph.outputs)} tensor outputs, but {len(names)} names: {', '.join(names)}"
            )
        output = choose_output(output, names)
        graph = graph.ending_at(graph.outputs[names.index(output)])
        inputs = tuple(read_input(feed.name, node) for node, feed in graph.feeds.items() if feed.kind == "input")
        if not inputs:
            raise unsupported(f"the output {output!r} does not depend on any input")
        parameters, aliases = tie(graph, tensors)
        floating = next((tensor for tensor in parameters.values() if tensor.is_floating_point()), None)
        return cls(
            graph=rename(graph, aliases),
            parameters=parameters,
            constants={feed.name: tensors[feed] for feed in graph.feeds.values() if feed.kind == "constant"},
            aliases=aliases,
            inputs=inputs,
            outputs=names,
            output=output,
            output_shape=read_output_shape(graph, output),
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
        names: dict[str, str] = {}
        for name, tensor in parameters.items():
            owner = self.aliases.get(name, name)
            same = given.setdefault(owner, tensor)
            if same.dtype != tensor.dtype or not torch.equal(same, tensor):
                text = f"{names[owner]!r} and {name!r} are the same weights of the model, and those given differ"
                raise InvalidArgument(Reason.WEIGHTS_MISMATCH, text, metadata={"parameter": name})
            names.setdefault(owner, name)
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
        activation, _ = final_activation(self.graph)
        return activation

    @property
    def endings(self) -> tuple[Activation, ...]:
        """What a loss can look behind, see `behind`."""
        return tuple(one for one in (self.output_activation, score_of_two_classes(self.graph)[0]) if one)

    def behind(self, ending: Activation) -> "Program":
        """Return the program whose prediction is what an ending receives: the logits, or the one score of two classes.

        Args:
            ending: one of `endings`.
        """
        made, score = score_of_two_classes(self.graph)
        if score is not None and made == ending:
            return replace(self, graph=self.graph.ending_at(score), output_shape=(1,))
        _, nodes = final_activation(self.graph)
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
