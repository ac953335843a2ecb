"""The tensors that an ONNX graph carries: which are parameters, which are constants, which are shapes."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch

from undue_service.models.limits import MAX_SHAPE_NUMBERS
from undue_service.models.refusals import malformed, quoted, unsafe, unsupported

from .element_types import CARRIED, FLOATS, element_type, onnx_code, to_tensor

_TRAINED = tuple(getattr(torch, name) for name in FLOATS.values())


@dataclass(frozen=True)
class Initializers:
    """Every tensor of a graph that some node reads, by name."""

    parameters: Mapping[str, torch.Tensor]
    """Floating-point, trained: see `provenance`."""
    constants: Mapping[str, torch.Tensor]
    """Floating-point, not trained; and integers of rank 2 and more, such as position ids."""
    integers: Mapping[str, np.ndarray]
    """Shapes, axes and flags, of rank 0 or 1."""
    texts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Strings."""


def read_initializers(
    graph: onnx.GraphProto, untrained: Collection[str] = (), halves_are_constants: bool = False
) -> Initializers:
    """Return what the nodes of a graph read.

    Args:
        graph: where they are.
        untrained: names of floating-point tensors that no training changes.
        halves_are_constants: whether weights in float16 and bfloat16 are read, as such tensors; otherwise refused.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED for element types that no edge may hold, and for weights in other types than
            float32 and float64; MODEL_UNSAFE for a name that could become code; MODEL_MALFORMED for a tensor that does
            not hold what it declares, or, where it is trained, holds NaN or infinity.
    """
    read = names_read(graph.node) | {value.name for value in graph.output}
    if graph.sparse_initializer:
        raise unsupported("the model has sparse weights; make them dense before the export")
    parameters: dict[str, torch.Tensor] = {}
    constants: dict[str, torch.Tensor] = {}
    integers: dict[str, np.ndarray] = {}
    texts: dict[str, np.ndarray] = {}
    for name, value, trained in _stored(graph, read):
        _check_name(name)
        if value.dtype.kind in "OU":
            texts[name] = value
            continue
        if value.dtype.kind in "iub" and value.ndim <= 1 and value.size <= MAX_SHAPE_NUMBERS:
            integers[name] = value
            continue
        tensor = to_tensor(value, f"the weight {quoted(name)}")
        is_trained = trained and tensor.is_floating_point() and name not in untrained
        if is_trained and tensor.dtype not in _TRAINED:
            if halves_are_constants:
                constants[name] = tensor
                continue
            raise unsupported(_not_trained(name, element_type(onnx_code(tensor.dtype))))
        if _holds_nan(tensor, or_infinity=is_trained):
            raise malformed(f"the weight {quoted(name)} holds NaN or infinity; the training that made it diverged")
        (parameters if is_trained else constants)[name] = tensor
    return Initializers(parameters, constants, integers, texts)


def _holds_nan(tensor: torch.Tensor, or_infinity: bool) -> bool:
    if tensor.is_complex():
        return bool(tensor.isnan().any())
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    # Both ends are NaN where any number is. isnan and isfinite make tensors as large as the weight.
    low, high = (float(end) for end in tensor.aminmax())
    return math.isnan(low) or (or_infinity and (math.isinf(low) or math.isinf(high)))


def names_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the names that nodes and their subgraphs read, and those that subgraphs give."""
    names, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        names.update(node.input)
        for graph in subgraphs(node):
            names.update(value.name for value in graph.output)
            waiting.extend(graph.node)
    return names


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs among a node's attributes."""
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else []) + list(a.graphs)]


def _stored(graph: onnx.GraphProto, read: set[str]) -> Iterator[tuple[str, np.ndarray, bool]]:
    for tensor in graph.initializer:
        if tensor.name in read:
            value = stored_array(tensor, tensor.name)
            yield tensor.name, value, value.size != 1 or _is_finite(value)
    for node in graph.node:
        if node.op_type == "Constant" and node.output and node.output[0] in read:
            value = constant_value(node.attribute, node.output[0])
            # A number alone, and infinity, which fills masks, are no weights; NaN is refused as either.
            yield node.output[0], value, value.size > 1 and _is_finite(value)


def _is_finite(value: np.ndarray) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _check_name(name: str) -> None:
    """Refuse names that leave a string literal: torch.fx writes `getattr(module, "name")` into code that it runs."""
    if not name.isprintable() or '"' in name or "\\" in name:
        raise unsafe(f"the weight {quoted(name)} has quotes, backslashes or control characters in its name; rename it")


def constant_value(attributes: Iterable[onnx.AttributeProto], name: str) -> np.ndarray:
    """Return what a Constant node holds."""
    by_name = {attribute.name: attribute for attribute in attributes}
    if "value_string" in by_name:
        return np.asarray(by_name["value_string"].s.decode(errors="replace"), object)
    if "value_strings" in by_name:
        return np.asarray([text.decode(errors="replace") for text in by_name["value_strings"].strings], object)
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
    raise unsupported(f"the constant {quoted(name)} is sparse; make it dense before the export")


def stored_array(tensor: onnx.TensorProto, name: str) -> np.ndarray:
    """Return what a tensor of the file holds; `name` is for the error.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED for elements that no edge may hold, MODEL_MALFORMED.
    """
    if tensor.data_type not in (*CARRIED, onnx.TensorProto.STRING):
        raise unsupported(_not_trained(name, element_type(tensor.data_type)))
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise malformed(f"the weight {quoted(name)} does not hold what its shape declares") from error


def _not_trained(name: str, kind: object) -> str:
    return f"the weight {quoted(name)} is {kind}; export the model in float32 or float64, before it is quantised"
