"""What a runner finds in a model and in a data set when they are registered."""

from collections.abc import Iterable
from dataclasses import replace

from undue_service.datasets.opening import validate
from undue_service.datasets.source import DatasetSource
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import (
    CheckpointReport,
    ColumnSchema,
    DatasetReport,
    ModelReport,
)
from undue_service.domain.specs import DataSource, FileSource
from undue_service.engine.data import Batch
from undue_service.engine.objective import Objective
from undue_service.engine.plausibility import doubts
from undue_service.engine.program import Program
from undue_service.engine.progress import Progress
from undue_service.engine.roles import parameter_uses
from undue_service.engine.stationarity import measure_fit
from undue_service.models import OpenedModel
from undue_service.models.parity import parity

from .opening import naming
from .rows import SourceRows
from .speed import measure_speed

PARITY_ROWS = 256
"""Rows of the sample on which onnxruntime and torch are compared."""


def dataset_report(spec: DataSource, source: DatasetSource, report: Progress) -> DatasetReport:
    """Read every row of a data set once and say what is there."""
    # The ids of images are their files' names already, and may be a million.
    named = isinstance(spec, FileSource) and (spec.format != "image_folder" or len(spec.files) == 1)
    files = tuple(file.name for file in spec.files) if isinstance(spec, FileSource) and named else ()
    return validate(source, report, files)


def model_report(
    opened: OpenedModel,
    objective: Objective,
    sample: DatasetSource | None,
    checkpoints: Iterable[Objective],
    report: Progress,
) -> ModelReport:
    """Hold a model against rows of its sample, at its weights and at each checkpoint, and say what it is.

    Raises:
        Error: whatever is wrong with the model, or with the sample for it.
    """
    agreement, rows = None, 0
    fit = speed = None
    warnings = list(opened.warnings)
    if sample is None:
        warnings.append(
            "registered without a sample, so neither parity nor the fit to the data was checked: pass sample="
        )
    else:
        placed = _first_rows(objective, sample)
        agreement, rows = _parity(opened, placed, report)
        warnings += doubts(objective, placed.inputs)
    if sample is not None and sample.schema.target is not None:
        fit = measure_fit(objective, SourceRows(sample), progress=report)
        speed = measure_speed(objective, SourceRows(sample))
        warnings += fit.warnings
    program = objective.program
    warnings += _unreached(opened, program)
    if len(program.outputs) > 1:
        rest = ", ".join(repr(name) for name in program.outputs if name != program.output)
        warnings.append(f"the prediction is the output {program.output!r}; the model also gives {rest}")
    uses = parameter_uses(program)
    dtypes = {str(one.dtype).removeprefix("torch.") for one in opened.exported.parameters()}
    return ModelReport(
        inputs=tuple(_column(opened, one.name) for one in program.inputs),
        outputs=program.outputs,
        parameters=tuple(replace(one, uses=uses.get(one.name, ())) for one in objective.parameters),
        dtype="float64" if "float64" in dtypes else "float32",
        linear_head=objective.head is not None,
        output_activation=objective.output_activation,
        parity_max_abs=agreement,
        parity_rows=rows,
        stationarity=fit.stationarity if fit is not None else None,
        warnings=tuple(warnings),
        outputs_per_row=objective.outputs_per_row,
        speed=speed,
        output=program.output,
        checkpoints=tuple(_checkpoint(place, at, sample, report) for place, at in enumerate(checkpoints)),
    )


def _checkpoint(place: int, at: Objective, sample: DatasetSource | None, report: Progress) -> CheckpointReport:
    if sample is None or sample.schema.target is None:
        return CheckpointReport(None)
    with naming(f"checkpoints[{place}]"):
        return CheckpointReport(measure_fit(at, SourceRows(sample), progress=report).stationarity)


def _unreached(opened: OpenedModel, program: Program) -> list[str]:
    """Name the parameters of the file that the prediction does not depend on, so that no score runs over them."""
    known = {*program.parameters, *program.aliases}
    rest = [name for name, _ in opened.exported.named_parameters() if name not in known]
    if not rest:
        return []
    listed = ", ".join(repr(name) for name in rest[:5]) + (f" and {len(rest) - 5} more" if len(rest) > 5 else "")
    return [f"the output {program.output!r} does not depend on the parameters {listed}; no score runs over them"]


def _first_rows(objective: Objective, source: DatasetSource) -> Batch:
    """Return rows of the sample, placed; refuses a sample that does not fit the model."""
    rows = SourceRows(source)
    return objective.place(next(iter(rows.batches(min(PARITY_ROWS, len(rows))))))


def _parity(opened: OpenedModel, placed: Batch, report: Progress) -> tuple[float | None, int]:
    """Return how far onnxruntime and torch are apart on some rows; None for a format of torch's own."""
    if opened.reference is None:
        return None, 0
    report("parity with onnxruntime", 0, len(placed.index))
    return parity(opened, {name: tensor.cpu().numpy() for name, tensor in placed.inputs.items()}), len(placed.index)


def _column(opened: OpenedModel, name: str) -> ColumnSchema:
    for column in opened.inputs:
        if column.name == name:
            return column
    raise InvalidArgument(Reason.MODEL_MALFORMED, f"the model's program has an input {name!r} that its file does not")
