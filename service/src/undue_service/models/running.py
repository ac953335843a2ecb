"""Runs an ExportedProgram on named arrays, and checks without data that it maps rows to rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export.graph_signature import InputKind

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import ColumnSchema

from .opened import OpenedModel
from .refusals import malformed, quoted, static_batch, unsupported

_PROBED_ROWS = (2, 3)


def predict(opened: OpenedModel, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the program's outputs by name, each with one row per input row.

    Args:
        opened: the model.
        inputs: one array per input, (rows, *shape of the input); converted to the input's element type.

    Raises:
        InvalidArgument: INPUT_MISMATCH.
    """
    tensors = [torch.from_numpy(array) for array in conform(opened.inputs, inputs).values()]
    with torch.no_grad():
        try:
            outputs = opened.exported.graph_module(*_arguments(opened.exported, _stored(opened.exported), tensors))
        except IndexError as error:
            raise _mismatch("an id in the inputs lies beyond the table that it looks up") from error
    return {name: value.numpy() for name, value in zip(opened.outputs, outputs, strict=True)}


def conform(columns: Sequence[ColumnSchema], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in the order and element types of the inputs.

    Raises:
        InvalidArgument: INPUT_MISMATCH, a name, a shape or a kind of number is wrong.
    """
    wanted = {column.name: column for column in columns}
    if set(inputs) != set(wanted):
        raise _mismatch(
            f"the model takes {', '.join(sorted(wanted))}; given were {', '.join(sorted(inputs)) or 'none'}"
        )
    rows = {len(array) if array.ndim else -1 for array in inputs.values()}
    if len(rows) != 1 or -1 in rows:
        raise _mismatch("the inputs do not have the same number of rows")
    return {name: _conform(column, inputs[name]) for name, column in wanted.items()}


def _conform(column: ColumnSchema, array: np.ndarray) -> np.ndarray:
    if array.shape[1:] != column.shape:
        raise _mismatch(f"a row of {quoted(column.name)} has the shape {column.shape}, not {array.shape[1:]}")
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and not column.dtype.startswith("float")):
        raise _mismatch(f"the input {quoted(column.name)} is {column.dtype}, not {array.dtype}")
    return np.ascontiguousarray(array, dtype=column.dtype)


def _mismatch(message: str) -> InvalidArgument:
    return InvalidArgument(Reason.INPUT_MISMATCH, message)


def _stored(exported: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    return {**exported.constants, **exported.state_dict}


def _arguments(
    exported: torch.export.ExportedProgram, stored: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Return all arguments of the lifted graph: parameters, buffers and constants, then what the user gives."""
    given = iter(inputs)
    return [
        next(given) if spec.kind is InputKind.USER_INPUT else stored[spec.target or ""]
        for spec in exported.graph_signature.input_specs
    ]


def require_rows_stay_rows(
    exported: torch.export.ExportedProgram, inputs: Sequence[ColumnSchema], outputs: Sequence[str], export_line: str
) -> None:
    """Run the program on shapes alone, for two numbers of rows, and require one row out for each row in.

    Raises:
        InvalidArgument: STATIC_BATCH, MODEL_UNSUPPORTED, or MODEL_MALFORMED where it cannot be run at all.
    """
    few, more = _run_on_shapes(exported, inputs)
    for name, small, large in zip(outputs, few, more, strict=True):
        if (small[:1], large[:1]) == tuple((rows,) for rows in _PROBED_ROWS):
            if small[1:] == large[1:]:
                continue
            text = (
                f"the output {quoted(name)} has the shape {small} for {_PROBED_ROWS[0]} rows and {large} for one more"
            )
            raise unsupported(f"{text}; only the first axis may follow the number of rows, a row depends on no other")
        if small and small == large:
            raise static_batch(f"the output {quoted(name)} has the shape {small} for any number of rows", export_line)
        text = f"the output {quoted(name)} has the shape {small} for {_PROBED_ROWS[0]} rows; it needs one row for each"
        raise unsupported(text)


def traced_rows_stay_rows(exported: torch.export.ExportedProgram) -> bool:
    """Return whether the first axis of every output, and no other, is that of the inputs, by what the trace noted.

    For a program that this process traced itself: what a file declares of its shapes has to be run to be believed.
    """
    specs = exported.graph_signature.input_specs
    placeholders = exported.graph.find_nodes(op="placeholder")
    given = [node for node, spec in zip(placeholders, specs, strict=True) if spec.kind is InputKind.USER_INPUT]
    values = [node.meta.get("val") for node in (*given, *exported.graph.output_node().args[0])]
    if not all(isinstance(value, torch.Tensor) and value.dim() for value in values):
        return False
    if any(isinstance(size, torch.SymInt) for value in values for size in value.shape[1:]):
        return False
    sizes = [value.shape[0] for value in values]
    return all(isinstance(size, torch.SymInt) for size in sizes) and len({size.node.expr for size in sizes}) == 1


def _run_on_shapes(
    exported: torch.export.ExportedProgram, inputs: Sequence[ColumnSchema]
) -> list[list[tuple[int, ...]]]:
    """Return the outputs' shapes for each number of rows."""
    found = []
    with FakeTensorMode() as mode, torch.no_grad():

        def shapes_alone(tensor: torch.Tensor) -> torch.Tensor:
            return tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)

        stored = {name: shapes_alone(tensor) for name, tensor in _stored(exported).items()}
        for rows in _PROBED_ROWS:
            given = [shapes_alone(torch.empty(rows, *c.shape, dtype=getattr(torch, c.dtype))) for c in inputs]
            try:
                outputs = _DeclaredShapes(exported.graph_module).run(*_arguments(exported, stored, given))
            except Exception as error:
                cause = str(error).partition("\n")[0]
                raise malformed(f"the model cannot be run on {rows} rows: {quoted(cause)}") from error
            found.append([tuple(int(size) for size in value.shape) for value in outputs])
    return found


class _DeclaredShapes(torch.fx.Interpreter):
    """Runs a graph and holds every tensor against the type and the fixed sizes that the graph declares for it."""

    def run_node(self, n: torch.fx.Node) -> object:
        value, declared = super().run_node(n), n.meta.get("val")
        if isinstance(value, torch.Tensor) and isinstance(declared, torch.Tensor):
            same = value.dtype == declared.dtype and value.dim() == declared.dim()
            pairs = zip(value.shape, declared.shape, strict=same)
            if not same or any(isinstance(size, int) and size != real for real, size in pairs):
                raise ValueError(f"{n.name} is declared {tuple(declared.shape)} but is {tuple(value.shape)}")
        return value
