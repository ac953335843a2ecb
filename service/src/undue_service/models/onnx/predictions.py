"""Which outputs of a graph can be the prediction: floating-point tensors, one row a row.

A classifier gives its label beside its scores, and skl2onnx packs the scores into a list of maps (ZipMap). The label is
a constant almost everywhere, and a map holds the same numbers as the tensor that was packed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from undue_service.models.refusals import quoted

from .element_types import FLOATS

ML_DOMAIN = "ai.onnx.ml"


@dataclass(frozen=True)
class Predictions:
    """What became of the outputs of a graph."""

    unpacked: Mapping[str, tuple[int | str, ...]]
    """Output to the keys, in order, of the maps that it is a list of in the file."""
    left_out: tuple[str, ...]
    """Outputs that are no floating-point numbers."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """Outputs of which one column is left, and which."""

    @property
    def warnings(self) -> Iterator[str]:
        """Yield what a user should know."""
        if self.left_out:
            named = quoted(", ".join(self.left_out))
            yield f"the outputs {named} are no floating-point numbers, such as labels, and were left out"
        for name in self.columns:
            yield (
                f"the output {quoted(name)} is the decision function d of the second class alone; the file has "
                "(d, −d), in the order opposite to its labels"
            )

    def of_file(self, name: str, value: Any) -> np.ndarray:
        """Return what the file gives as an output, as the output is here."""
        if name in self.unpacked:
            keys = self.unpacked[name]
            value = np.asarray([[row[key] for key in keys] for row in value], np.float32).reshape(len(value), len(keys))
        return value[:, self.columns[name], None] if name in self.columns else value


def keep_predictions(graph: onnx.GraphProto) -> Predictions:
    """Unpack maps and leave out, in place, what is no prediction, and the nodes that only that needs.

    Nothing is left out of a graph that has no other outputs.
    """
    unpacked = dict(_unpack(graph))
    kept = [value for value in graph.output if _may_be_prediction(value)]
    left_out = tuple(value.name for value in graph.output if not _may_be_prediction(value))
    if not kept or not left_out:
        return Predictions(unpacked, ())
    needless = needed(graph, left_out) - needed(graph, (value.name for value in kept))
    nodes = [node for place, node in enumerate(graph.node) if place not in needless]
    del graph.node[:]
    graph.node.extend(nodes)
    outputs = [value for value in graph.output if value.name not in left_out]
    del graph.output[:]
    graph.output.extend(outputs)
    return Predictions(unpacked, left_out)


def needed(graph: onnx.GraphProto, names: Iterable[str]) -> set[int]:
    """Return the places of the nodes that some values depend on."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    found: set[int] = set()
    waiting = list(names)
    while waiting:
        place = makers.get(waiting.pop())
        if place is not None and place not in found:
            found.add(place)
            waiting.extend(_reads(graph.node[place]))
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, and those that its subgraphs read, own or from outside."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield from one.input
        for attribute in one.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                waiting.extend(graph.node)
                yield from (value.name for value in graph.output)


def _may_be_prediction(value: onnx.ValueInfoProto) -> bool:
    """Whether a value is declared as floating-point numbers, or not at all."""
    if value.type.WhichOneof("value") is None:
        return True
    element = value.type.tensor_type.elem_type
    return value.type.HasField("tensor_type") and (element in FLOATS or element == onnx.TensorProto.UNDEFINED)


def _unpack(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """Let the tensors through that ZipMap makes lists of maps of; yield the outputs that this changes, and the keys."""
    outputs = {value.name: value for value in graph.output}
    for node in graph.node:
        if node.op_type != "ZipMap" or node.domain != ML_DOMAIN or len(node.output) != 1:
            continue
        keys = tuple(key for attribute in node.attribute for key in _keys(attribute))
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        if node.output[0] in outputs:
            value = outputs[node.output[0]]
            value.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
            yield value.name, keys


def _keys(attribute: onnx.AttributeProto) -> tuple[int | str, ...]:
    if attribute.name == "classlabels_int64s":
        return tuple(attribute.ints)
    return tuple(text.decode(errors="replace") for text in attribute.strings)
