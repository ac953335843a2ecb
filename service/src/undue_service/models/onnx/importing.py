"""An ONNX file to an ExportedProgram."""

import re
from pathlib import Path

import torch
from torch._dynamo.exc import UserError
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError

from undue_service.domain.errors import Error
from undue_service.domain.reports import ColumnSchema
from undue_service.models.naming import name_inputs, name_tensors
from undue_service.models.opened import OpenedModel
from undue_service.models.refusals import ONNX_EXPORT, malformed, quoted, static_batch
from undue_service.models.running import require_rows_stay_rows, traced_rows_stay_rows

from .graphs import module_of
from .locating import Locator
from .module import OnnxModule
from .preprocessing import preprocessing
from .reading import read_onnx
from .session import OnnxRuntime
from .signature import graph_inputs, graph_outputs
from .support import require_derivatives

_TRACED_ROWS = 61
"""How many rows the trace sees: unlike any size that a model is likely to have, so that no axis is mistaken for it."""
_PLAUSIBLE_ROWS = range(1, 1025)
_OPEN_SIZE = re.compile(r"\bs[0-9]+\b")
"""What torch calls the number of rows where it does not fit."""


def open_onnx(path: Path) -> OpenedModel:
    """Return the model in an ONNX file.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS, STATIC_BATCH.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    model, predictions = read_onnx(path)
    require_derivatives(model.graph)
    inputs, outputs = graph_inputs(model.graph), graph_outputs(model.graph)
    read = module_of(model, preprocessing(model))
    module = read.module
    exported = _export(module, inputs)
    name_tensors(exported, {**module.parameter_names, **module.buffer_names})
    name_inputs(exported, tuple(column.name for column in inputs))
    if not traced_rows_stay_rows(exported):
        require_rows_stay_rows(exported, inputs, outputs, ONNX_EXPORT)
    reference = OnnxRuntime(path, outputs, predictions)
    locate = Locator(path, module, tuple(column.name for column in inputs), predictions)
    return OpenedModel(exported, inputs, outputs, reference, (*predictions.warnings, *read.warnings), locate)


def _export(module: OnnxModule, inputs: tuple[ColumnSchema, ...]) -> torch.export.ExportedProgram:
    examples = tuple(torch.empty(_TRACED_ROWS, *c.shape, dtype=getattr(torch, c.dtype)) for c in inputs)
    batch = torch.export.Dim("rows", min=0)
    try:
        return torch.export.export(module, examples, dynamic_shapes=(tuple({0: batch} for _ in examples),))
    except Error:
        raise
    except (UserError, ConstraintViolationError) as error:
        raise static_batch(f"the model works for some numbers of rows only: {quoted(error)}", ONNX_EXPORT) from error
    except Exception as error:
        rows = _only_rows(module, inputs)
        if rows is not None:
            raise static_batch(f"the model works for exactly {rows} rows", ONNX_EXPORT) from error
        if _OPEN_SIZE.search(str(error)):
            raise static_batch(
                f"the number of rows meets a size that is fixed: {quoted(error)}", ONNX_EXPORT
            ) from error
        raise malformed(f"the model's shapes or types do not fit together: {quoted(error)}") from error


def _only_rows(module: OnnxModule, inputs: tuple[ColumnSchema, ...]) -> int | None:
    """Return a number of rows that a failing model does take: one that a weight or bias has baked in."""
    candidates = {len(weight) for weight in module.parameters() if weight.dim() > 1}
    for rows in sorted(candidates & set(_PLAUSIBLE_ROWS)):
        try:
            with torch.no_grad():
                module(*(torch.zeros(rows, *c.shape, dtype=getattr(torch, c.dtype)) for c in inputs))
        except (RuntimeError, Error):
            continue
        return rows
    return None
