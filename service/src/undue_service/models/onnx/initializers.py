"""The tensors that an ONNX graph carries: which are parameters, which are constants, which are shapes."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from undue_service.models.refusals import malformed, quoted, unsafe, unsupported

FLOATS: Mapping[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}
INTEGERS: Mapping[int, str] = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.INT32: "int32"}


@dataclass(frozen=True)
class Initializers:
    """Every tensor of a graph that some node reads, by name."""

    parameters: Mapping[str, torch.Tensor]
    """Floating-point, trained: see `provenance`."""
    constants: Mapping[str, torch.Tensor]
    """Floating-point, not trained; and integers of rank 2 and more, such as position ids."""
    integers: Mapping[str, np.ndarray]
    """Shapes, axes and flags, of rank 0 or 1; int64."""


def read_initializers(graph: onnx.GraphProto, untrained: Collection[str] = ()) -> Initializers:
    """Return what the nodes of a graph read.

    Args:
        graph: where they are.
        untrained: names of floating-point tensors that no training changes.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED for element types other than float32, float64, int32, int64 and bool;
            MODEL_UNSAFE for a name that could become code; MODEL_MALFORMED for a tensor that does not hold what it
            declares, that holds NaN, or, where it is trained, infinity.
    """
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    if graph.sparse_initializer:
        raise unsupported("the model has sparse weights; make them dense before the export")
    parameters: dict[str, torch.Tensor] = {}
    constants: dict[str, torch.Tensor] = {}
    integers: dict[str, np.ndarray] = {}
    for name, value, trained in _stored(graph, read):
        _check_name(name)
        if value.dtype.kind in "ib":
            if value.ndim > 1:
                constants[name] = torch.from_numpy(value.astype(np.int64))
            else:
                integers[name] = value.astype(np.int64)
            continue
        is_trained = trained and name not in untrained
        if np.isnan(value).any() or (is_trained and not np.isfinite(value).all()):
            raise malformed(f"the weight {quoted(name)} holds NaN or infinity; the training that made it diverged")
        (parameters if is_trained else constants)[name] = torch.from_numpy(value.copy())
    return Initializers(parameters, constants, integers)


def _stored(graph: onnx.GraphProto, read: set[str]) -> Iterator[tuple[str, np.ndarray, bool]]:
    for tensor in graph.initializer:
        if tensor.name in read:
            yield tensor.name, stored_array(tensor, tensor.name), True
    for node in graph.node:
        if node.op_type == "Constant" and node.output and node.output[0] in read:
            value = constant_value(node.attribute, node.output[0])
            yield node.output[0], value, value.ndim > 0


def _check_name(name: str) -> None:
    """Refuse names that leave a string literal: torch.fx writes `getattr(module, "name")` into code that it runs."""
    if not name.isprintable() or '"' in name or "\\" in name:
        raise unsafe(f"the weight {quoted(name)} has quotes, backslashes or control characters in its name; rename it")


def constant_value(attributes: Iterable[onnx.AttributeProto], name: str) -> np.ndarray:
    """Return what a Constant node holds."""
    by_name = {attribute.name: attribute for attribute in attributes}
    if "value" in by_name:
        return stored_array(by_name["value"].t, name)
    if "value_float" in by_name:
        return np.asarray(by_name["value_float"].f, np.float32)
    if "value_floats" in by_name:
        return np.asarray(by_name["value_floats"].floats, np.float32)
    if "value_int" in by_name:
        return np.asarray(by_name["value_int"].i, np.int64)
    if "value_ints" in by_name:
        return np.asarray(by_name["value_ints"].ints, np.int64)
    raise unsupported(f"the constant {quoted(name)} is sparse or text; numbers are supported")


def stored_array(tensor: onnx.TensorProto, name: str) -> np.ndarray:
    """Return what a tensor holds, of the name that an error shall say."""
    if tensor.data_type not in (*FLOATS, *INTEGERS, onnx.TensorProto.BOOL):
        kind = element_type(tensor.data_type)
        raise unsupported(
            f"the weight {quoted(name)} is {kind}; export the model in float32 or float64, before it is quantised"
        )
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise malformed(f"the weight {quoted(name)} does not hold what its shape declares") from error


def element_type(code: int) -> str:
    """Return ONNX's name of an element type."""
    names = {value: name for name, value in onnx.TensorProto.DataType.items()}
    return names.get(code, f"element type {code}")
