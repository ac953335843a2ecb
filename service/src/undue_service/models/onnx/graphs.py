"""An ONNX model to a torch module, whatever its inputs are: below the door that asks for rows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from undue_service.models.refusals import quoted, unsupported

from .element_types import to_array, to_tensor
from .expanding import versions
from .initializers import read_initializers
from .module import OnnxModule
from .provenance import give_statistics_their_own, trace_provenance
from .reading import gather_tensors, inline_functions, require_opset
from .support import require_supported
from .values import Listed, Maybe, Shape, Text, Value, dense

_MAX_NAMED = 5


@dataclass(frozen=True)
class ReadGraph:
    """A graph that can be run, and what was noticed of it."""

    module: OnnxModule
    warnings: tuple[str, ...]


def read_graph(model: onnx.ModelProto) -> OnnxModule:
    """Return a model of any inputs, outputs and fixed sizes as a module; call its `run` with `from_arrays`.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    require_opset(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inlined = inline_functions(copy)
    require_supported(inlined.graph, versions(inlined.opset_import))
    gather_tensors(inlined.graph)
    return module_of(inlined, halves_are_constants=True).module


def module_of(model: onnx.ModelProto, untrained: Collection[str] = (), halves_are_constants: bool = False) -> ReadGraph:
    """Return a model that `reading` has prepared, which is changed, as a module.

    Args:
        model: of operators that are supported, without functions, its tensors gathered.
        untrained: names of tensors that no training changes, beside those whose provenance says so.
        halves_are_constants: see `read_initializers`.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED.
    """
    give_statistics_their_own(model.graph)
    provenance = trace_provenance(model.graph)
    stored = read_initializers(model.graph, provenance.untrained | set(untrained), halves_are_constants)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(value.name for value in model.graph.input if value.name not in held)
    outputs = tuple(value.name for value in model.graph.output)
    module = OnnxModule(model.graph, versions(model.opset_import), stored, inputs, outputs).eval()
    return ReadGraph(module, (*provenance.warnings, *_told_of_constants(stored.constants)))


def _told_of_constants(constants: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Name the matrices among the constants: what a reader of the report may take for weights."""
    matrices = [name for name, tensor in constants.items() if tensor.is_floating_point() and tensor.dim() > 1]
    if matrices:
        more = f" and {len(matrices) - _MAX_NAMED} more" if len(matrices) > _MAX_NAMED else ""
        listed = quoted(", ".join(matrices[:_MAX_NAMED])) + more
        yield f"the file holds {listed} as constants, which no training changes; no score runs over them"


def from_arrays(graph: onnx.GraphProto, given: Sequence[Any]) -> list[Value]:
    """Return inputs as they flow along edges: an array, a list of arrays for a sequence, None for an empty optional.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED for elements that no edge may hold.
    """
    held = {tensor.name for tensor in graph.initializer}
    declared = [value for value in graph.input if value.name not in held]
    return [_from(item, value.type, value.name) for item, value in zip(given, declared, strict=True)]


def to_arrays(values: Sequence[Value]) -> list[Any]:
    """Return values in the form of `from_arrays`."""
    return [_to(value) for value in values]


def _from(given: Any, declared: onnx.TypeProto, name: str) -> Value:
    if declared.HasField("optional_type"):
        return Maybe(None if given is None else _from(given, declared.optional_type.elem_type, name))
    if declared.HasField("sequence_type"):
        return Listed(tuple(_from(item, declared.sequence_type.elem_type, name) for item in given))
    if not declared.HasField("tensor_type"):
        raise unsupported(f"the input {name!r} is a map or sparse; supported are tensors, sequences and optionals")
    array = np.asarray(given)
    if array.dtype.kind in "OUS":
        return Text(array.astype(object))
    return to_tensor(array, f"the input {name!r}")


def _to(value: Value) -> Any:
    if isinstance(value, Listed):
        return [_to(item) for item in value.items]
    if isinstance(value, Maybe):
        return None if value.value is None else _to(value.value)
    if isinstance(value, Text):
        return value.array
    if isinstance(value, Shape):
        return to_array(torch.tensor(value.values, dtype=value.dtype).reshape(value.array.shape))
    return to_array(dense(value))
