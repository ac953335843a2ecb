"""An ONNX graph as a torch module."""

from collections import Counter

import onnx
import torch

from undue_service.models.refusals import malformed, quoted, unsupported

from .initializers import Initializers
from .operators import OPERATORS, qualified
from .values import Node, Shape, Value, Weight, dense


class OnnxModule(torch.nn.Module):
    """Runs the nodes of an ONNX graph in order.

    A parameter is registered as `p0`, `p1`, …, since an ONNX name may hold any character and may collide with the
    path of a module; `parameter_names` maps back.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        opset: int,
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
        self._integers = stored.integers
        self._graph = graph
        self._opset = opset
        self._inputs = inputs
        self._outputs = outputs
        reads = Counter(name for node in graph.node for name in node.input)
        reads.update(outputs)
        self._read = frozenset(reads)
        self._read_once = frozenset(name for name, times in reads.items() if times == 1) - set(outputs)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs of the graph, in its order."""
        values: dict[str, Value] = dict(zip(self._inputs, inputs, strict=True))
        for registered, name in self.parameter_names.items():
            values[name] = Weight(self.get_parameter(registered))
        for registered, name in self.buffer_names.items():
            values[name] = self.get_buffer(registered)
        for name, array in self._integers.items():
            values[name] = Shape.of(array.reshape(-1).tolist(), array.shape)
        for node in self._graph.node:
            if node.output[0] not in values:
                values |= self._run(node, values)
        return tuple(self._output(name, values) for name in self._outputs)

    def _run(self, node: onnx.NodeProto, values: dict[str, Value]) -> dict[str, Value]:
        """Return the outputs of a node, by name."""
        missing = [name for name in node.input if name and name not in values]
        if missing:
            raise malformed(f"{node.op_type} reads {quoted(missing[0])} before anything computes it")
        inputs = [values[name] if name else None for name in node.input]
        found = OPERATORS[qualified(node)](Node(node, self._opset, inputs, self._read_once.__contains__))
        outputs = found if isinstance(found, tuple) else (found,)
        named = {name: value for name, value in zip(node.output, outputs, strict=False) if name and value is not None}
        lacking = [name for name in node.output if name in self._read and name not in named]
        if lacking:
            place = list(node.output).index(lacking[0])
            raise unsupported(
                f"{node.op_type} gives {quoted(lacking[0])} as its output {place}, which is not supported"
            )
        return named

    def _output(self, name: str, values: dict[str, Value]) -> torch.Tensor:
        value = values.get(name)
        if value is None or isinstance(value, Shape):
            raise malformed(f"the output {quoted(name)} is not computed by any node, or is a shape")
        return dense(value)
