"""An ONNX graph as a torch module."""

from collections import ChainMap
from collections.abc import Mapping

import onnx
import torch

from undue_service.models.refusals import quoted, unsupported

from .initializers import Initializers
from .interpreting import Interpreter
from .values import Listed, Maybe, Product, Shape, Text, Value, Weight, dense


class OnnxModule(torch.nn.Module):
    """Runs the nodes of an ONNX graph in order.

    A parameter is registered as `p0`, `p1`, …, since an ONNX name may hold any character and may collide with the
    path of a module; `parameter_names` maps back.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        opsets: Mapping[str, int],
        stored: Initializers,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.parameter_names = {f"p{i}": name for i, name in enumerate(stored.parameters)}
        self.buffer_names = {f"c{i}": name for i, name in enumerate(stored.constants)}
        for registered, name in self.parameter_names.items():
            self.register_parameter(registered, torch.nn.Parameter(stored.parameters[name]))
        for registered, name in self.buffer_names.items():
            self.register_buffer(registered, stored.constants[name])
        self._stored = stored
        self._graph = onnx.GraphProto()
        self._graph.node.extend(graph.node)  # a copy, without the tensors, which would be held twice
        self._opsets = opsets
        self._inputs = inputs
        self._outputs = outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of the graph, in its order.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED for an output that is no tensor, or a shape.
        """
        found = zip(self._outputs, self.run(*inputs), strict=True)
        return tuple(self._tensor(name, value) for name, value in found)

    def run(self, *inputs: Value) -> tuple[Value, ...]:
        """Return the outputs of the graph, in its order, whatever kind of value they are."""
        return self._run(self._stored_values(), inputs)

    def trace(self, *inputs: Value) -> dict[str, Value | None]:
        """Return every value of the graph by name, in the order of the nodes; those that are stored come first."""
        values = self._stored_values()
        self._run(values, inputs)
        return values

    def _stored_values(self) -> dict[str, Value | None]:
        values: dict[str, Value | None] = {}
        for registered, name in self.parameter_names.items():
            values[name] = Weight(self.get_parameter(registered))
        for registered, name in self.buffer_names.items():
            values[name] = self.get_buffer(registered)
        for name, array in self._stored.integers.items():
            values[name] = Shape.from_numpy(array)
        for name, array in self._stored.texts.items():
            values[name] = Text(array)
        return values

    def _run(self, values: dict[str, Value | None], inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """Run the nodes, which leave what they compute in `values`."""
        values.update(zip(self._inputs, inputs, strict=True))
        numbers = {**self._stored.parameters, **self._stored.constants}
        return Interpreter(numbers).run(self._graph.node, self._opsets, ChainMap(values), self._outputs)

    def _tensor(self, name: str, value: Value) -> torch.Tensor:
        if isinstance(value, torch.Tensor | Weight | Product):
            return dense(value)
        kinds = {Shape: "a shape", Text: "strings", Listed: "a sequence", Maybe: "an optional"}
        raise unsupported(f"the output {quoted(name)} is {kinds[type(value)]}, not numbers that depend on the inputs")
