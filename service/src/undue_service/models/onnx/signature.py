"""Inputs and outputs of an ONNX graph: an open first axis, every other size fixed."""

import math
from collections.abc import Sequence

import onnx

from undue_service.domain.reports import ColumnSchema
from undue_service.models.limits import MAX_RANK, MAX_ROW_ELEMENTS, too_large
from undue_service.models.refusals import ONNX_EXPORT, malformed, quoted, static_batch, unsupported

from .element_types import FLOATS, INTEGERS, element_type


def graph_inputs(graph: onnx.GraphProto) -> tuple[ColumnSchema, ...]:
    """Return what the graph takes; initialisers that are listed among the inputs (IR before 4) are left out.

    Raises:
        InvalidArgument: STATIC_BATCH, MODEL_UNSUPPORTED, MODEL_MALFORMED.
        ResourceExhausted: UPLOAD_TOO_LARGE, a row is beyond the limit.
    """
    stored = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_column(value) for value in graph.input if value.name not in stored)
    if not inputs:
        raise unsupported("the model has no inputs")
    return inputs


def graph_outputs(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Return the names of what the graph gives.

    Raises:
        InvalidArgument: MODEL_MALFORMED.
    """
    names = tuple(value.name for value in graph.output)
    if not names or len(set(names)) != len(names):
        raise malformed("the model has no outputs, or two of the same name")
    return names


def _column(value: onnx.ValueInfoProto) -> ColumnSchema:
    name = quoted(value.name)
    tensor = value.type.tensor_type
    dtypes = {**FLOATS, **INTEGERS}
    if not value.type.HasField("tensor_type") or tensor.elem_type not in dtypes:
        supported = ", ".join(dtypes.values())
        raise unsupported(f"the input {name} is {element_type(tensor.elem_type)}; supported are {supported}")
    if not tensor.HasField("shape") or not tensor.shape.dim:
        raise unsupported(f"the input {name} has no declared shape, or no axis for the rows")
    batch, *rest = tensor.shape.dim
    if batch.HasField("dim_value"):
        _refuse_rows_elsewhere(name, rest)
        raise static_batch(f"the input {name} takes exactly {batch.dim_value} rows", ONNX_EXPORT)
    for axis, dim in enumerate(rest, start=1):
        if not dim.HasField("dim_value"):
            called = f" ({dim.dim_param})" if dim.dim_param else ""
            raise unsupported(f"axis {axis}{called} of the input {name} has no fixed size; only the first may vary")
        if dim.dim_value < 1:
            raise malformed(f"axis {axis} of the input {name} has the size {dim.dim_value}")
    shape = tuple(dim.dim_value for dim in rest)
    if len(shape) > MAX_RANK:
        raise too_large(f"the rank of the input {name}", len(shape), MAX_RANK)
    if math.prod(shape) > MAX_ROW_ELEMENTS:
        raise too_large(f"the number of elements in a row of the input {name}", math.prod(shape), MAX_ROW_ELEMENTS)
    return ColumnSchema(value.name, dtypes[int(tensor.elem_type)], shape)


def _refuse_rows_elsewhere(name: str, rest: Sequence[onnx.TensorShapeProto.Dimension]) -> None:
    """Refuse an input of which an axis other than the first is open: that holds the rows, or nothing says what does."""
    for axis, dim in enumerate(rest, start=1):
        if not dim.HasField("dim_value"):
            called = f" ({dim.dim_param})" if dim.dim_param else ""
            raise unsupported(
                f"the first axis of the input {name} is fixed, axis {axis}{called} is open. Rows lie along the first "
                "axis: move them there before the export, by x.transpose(0, 1) or batch_first=True"
            )
