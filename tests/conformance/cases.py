"""The ONNX backend suite that ships in the `onnx` wheel, as models with inputs and expected outputs."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the suite overflows and divides by zero on purpose while it builds its data
    from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
OLDEST_OPSET = 9


@dataclass(frozen=True)
class Case:
    """One model of the suite."""

    kind: str
    name: str
    model: onnx.ModelProto
    """Of opset 9 or newer: an older one is converted by `onnx.version_converter`."""
    data_sets: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...]
    """Inputs and expected outputs in the graph's order: arrays, lists of arrays for sequences, None for no value."""
    rtol: float
    atol: float

    @property
    def operators(self) -> frozenset[str]:
        """Every operator of the model, subgraphs included: `Name`, or `domain::Name` outside the default domain."""
        return frozenset(_operators(self.model.graph))


def load(kind: str) -> list[Case]:
    """Return the cases of one kind, sorted by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind=kind)
    return [_case(kind, case) for case in sorted(found, key=lambda case: case.name)]


def _case(kind: str, case: Any) -> Case:
    model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
    data_sets = case.data_sets if case.data_sets is not None else list(_stored(Path(case.model_dir), model))
    whole = tuple((tuple(map(_array, inputs)), tuple(map(_array, outputs))) for inputs, outputs in data_sets)
    # The suite's own absolute tolerance is 1e-7 everywhere; float32 sums in another order miss it.
    return Case(kind, case.name, _modern(model), whole, case.rtol, max(case.atol, 1e-5))


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of an old opset as `onnx.version_converter` converts it to 9, but for two operators.

    The converter leaves a Scan without the batch axis that it had before opset 9, and a slope of PRelu without the axes
    that it needs from opset 7 on: there the model is left as it is, here the axes are added first.
    """
    default = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not default or default[0] >= OLDEST_OPSET or "Scan" in _operators(model.graph):
        return model
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    slopes = {node.input[1]: ranks[node.input[0]] for node in model.graph.node if node.op_type == "PRelu"}
    for tensor in (*model.graph.initializer, *model.graph.input):
        if tensor.name in slopes:
            _append_axes(tensor, slopes[tensor.name] - 2)
    return version_converter.convert_version(model, OLDEST_OPSET)


def _append_axes(tensor: onnx.TensorProto | onnx.ValueInfoProto, count: int) -> None:
    for _ in range(count):
        if isinstance(tensor, onnx.TensorProto):
            tensor.dims.append(1)
        else:
            tensor.type.tensor_type.shape.dim.add().dim_value = 1


def _stored(folder: Path, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    for data in sorted(folder.glob("test_data_set*")):
        yield _read(data, "input", model.graph.input), _read(data, "output", model.graph.output)


def _read(data: Path, role: str, declared: Any) -> list[Any]:
    count = len(list(data.glob(f"{role}_*.pb")))
    return [_value((data / f"{role}_{i}.pb").read_bytes(), declared[i].type) for i in range(count)]


def _value(content: bytes, declared: onnx.TypeProto) -> Any:
    if declared.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if declared.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [_array(item) for item in value]
    return value if value is None else np.asarray(value)


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _operators(inner)
