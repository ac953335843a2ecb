"""What a runner can do: one method a kind of task, over models, data sets and the engine."""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

import undue_service
from undue_service.datasets.files import check_unchanged
from undue_service.datasets.source import DatasetSource
from undue_service.domain.costs import BLOCK_BYTES
from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.methods import method_spec
from undue_service.domain.reports import (
    Diagnostics,
    InfluenceReport,
    ModelReport,
    Produced,
    RowsReport,
    TaskResult,
)
from undue_service.domain.specs import DataSource, Influence, ModelSpec, SelfInfluence
from undue_service.domain.tasks import (
    DatasetTask,
    InfluenceTask,
    ModelTask,
    RetrainTask,
    RowsTask,
    SelfInfluenceTask,
    Task,
)
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.curvature.trace import SEED
from undue_service.engine.diagnostics import EngineDiagnostics
from undue_service.engine.methods import Checkpoint
from undue_service.engine.objective import Objective
from undue_service.engine.retrain import retrain

from .opening import Models, open_checkpoints, open_initial
from .reports import dataset_report, model_report
from .results import write_counterfactuals, write_influence, write_rows, write_self_influence
from .rows import SourceRows
from .sources import Shelf
from .speed import peak_bytes

Report = Callable[[str, int, int], None]

RECIPE = "the minimiser of the registered objective without the row, 1/n kept, reached from the registered weights"

DAMPED_RECIPE = (
    f"{RECIPE}, which λ/2 · ‖θ − θ̂‖² holds near them: with λ > 0 a score estimates that response (proximal Bregman), "
    "which is smaller than that of free retraining"
)

RETRAIN_RECIPE = (
    "the minimiser of the registered objective without the rows, 1/n kept, by Newton's method from the minimiser on "
    "all rows, at which the costs before are measured and from which the registered weights lie {distance:.2g} away"
)


def libraries() -> dict[str, str]:
    """Return the versions of what computes."""
    names = ("torch", "onnx", "onnxruntime", "numpy", "pillow", "pyarrow", "undue-service")
    return {name: importlib.metadata.version(name) for name in names}


@dataclass(frozen=True, slots=True)
class Place:
    """What one task may touch."""

    artifacts: Mapping[str, Path]
    scratch: Path
    report: Report
    shelf: Shelf
    opened: list[DataSource] = field(default_factory=list)

    def source(self, source: DataSource, keep: bool = False) -> DatasetSource:
        """Open a data set, and keep it open for the next task if asked to."""
        self.opened.append(source)
        return self.shelf.open(source, self.artifacts.__getitem__, self.scratch, keep)

    def check(self) -> None:
        """Raise FailedPrecondition (DATASET_CHANGED) where a file was written to while it was read."""
        for source in self.opened:
            check_unchanged(source)


class Workshop:
    """Runs tasks on one device, with `block_bytes` of its memory for the intermediate values of a block of rows."""

    def __init__(self, device: str, block_bytes: int = BLOCK_BYTES) -> None:
        self._device = torch.device(device)
        self._block_bytes = block_bytes
        self._models = Models(self._device)
        self._shelf = Shelf()

    def run(self, task: Task, artifacts: Mapping[str, Path], scratch: Path, report: Report) -> TaskResult:
        """Run one task.

        Raises:
            Error: whatever is wrong with the model, the data or the request.
        """
        place = Place(artifacts, scratch, report, self._shelf)
        try:
            result = self._run(task, place)
            place.check()
            return result
        except torch.OutOfMemoryError as error:
            raise _out_of_memory() from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):  # the CPU's allocator has no exception of its own
                raise _out_of_memory() from error
            raise

    def peak_bytes(self) -> int:
        """Return the most memory of the device that this process has held so far."""
        return peak_bytes(self._device)

    def _run(self, task: Task, place: Place) -> TaskResult:
        match task:
            case DatasetTask(source=source):
                return TaskResult(dataset_report(source, place.source(source), place.report))
            case RowsTask(source=source, rows=rows):
                files = (write_rows(place.scratch, place.source(source, keep=True), rows),)
                return TaskResult(RowsReport(len(rows)), files)
            case ModelTask():
                return TaskResult(self._model_report(task, place))
            case InfluenceTask():
                return self._influence(task, place)
            case SelfInfluenceTask():
                return self._self_influence(task, place)
            case RetrainTask():
                return self._retrain(task, place)

    def _model_report(self, task: ModelTask, place: Place) -> ModelReport:
        place.report("opening the model", 0, 0)
        objective = self._objective(task.model, place)
        opened = self._models.open(task.model, place.artifacts, place.scratch)
        sample = place.source(task.sample) if task.sample is not None else None
        weights = open_checkpoints(task.model, place.artifacts, place.scratch)
        initial = open_initial(task.model, place.artifacts, place.scratch)
        if initial is not None:
            objective.at(initial)
        return model_report(opened, objective, sample, weights, place.report)

    def _influence(self, task: InfluenceTask, place: Place) -> TaskResult:
        spec = task.spec
        objective = self._objective(task.model, place, spec)
        train, test = place.source(task.train), place.source(task.test)
        found = influence(
            objective,
            SourceRows(train),
            SourceRows(test),
            rows=spec.rows or None,
            method=spec.method,
            measurement=spec.measurement,
            damping=spec.damping,
            top_k=spec.top_k,
            leverage_correction=spec.leverage_correction,
            tolerance=spec.tolerance,
            max_iterations=spec.max_iterations,
            aggregate=spec.aggregate,
            rank=spec.rank,
            normalization=spec.normalization,
            seed=spec.seed,
            checkpoints=_checkpoints(task.model, spec, place),
            ensemble=spec.ensemble,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )
        files = write_influence(place.scratch, found, train, test)
        digests = task.digests | {"code": code_digest()}
        diagnostics = _completed(found.diagnostics, digests, spec.seed)
        return TaskResult(InfluenceReport(diagnostics, len(found.test.rows), len(train)), files)

    def _self_influence(self, task: SelfInfluenceTask, place: Place) -> TaskResult:
        spec = task.spec
        objective = self._objective(task.model, place, spec)
        train = place.source(task.train)
        found = self_influence(
            objective,
            SourceRows(train),
            method=spec.method,
            damping=spec.damping,
            top_k=spec.top_k,
            leverage_correction=spec.leverage_correction,
            tolerance=spec.tolerance,
            max_iterations=spec.max_iterations,
            rank=spec.rank,
            normalization=spec.normalization,
            seed=spec.seed,
            checkpoints=_checkpoints(task.model, spec, place),
            ensemble=spec.ensemble,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )
        files: tuple[Produced, ...] = (write_self_influence(place.scratch, found, train),)
        digests = task.digests | {"code": code_digest()}
        diagnostics = _completed(found.diagnostics, digests, spec.seed)
        return TaskResult(InfluenceReport(diagnostics, len(found.train.rows), len(train)), files)

    def _retrain(self, task: RetrainTask, place: Place) -> TaskResult:
        spec = task.spec
        objective = self._objective(task.model, place)
        train = place.source(task.train)
        found = retrain(
            objective,
            SourceRows(train),
            SourceRows(place.source(task.test)),
            without=spec.without,
            rows=spec.rows or None,
            measurement=spec.measurement,
            tolerance=spec.tolerance,
            max_iterations=spec.max_iterations,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )
        recipe, digests = RETRAIN_RECIPE.format(distance=found.distance), task.digests | {"code": code_digest()}
        diagnostics = found.diagnostics.complete(recipe=recipe, seed=SEED, digests=digests)
        report = InfluenceReport(diagnostics, len(found.rows), len(train))
        return TaskResult(report, (write_counterfactuals(place.scratch, found),))

    def _objective(self, model: ModelSpec, place: Place, spec: Influence | SelfInfluence | None = None) -> Objective:
        """Return the model with its objective: for scores, in the precision of their method; else in float64."""
        if spec is None:
            return self._models.objective(model, place.artifacts, place.scratch)
        precision = method_spec(spec.method).precision
        return self._models.objective(
            model, place.artifacts, place.scratch, parameters=spec.parameters, precision=precision
        )


def _checkpoints(model: ModelSpec, spec: Influence | SelfInfluence, place: Place) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that a job works over."""
    if not (spec.ensemble or method_spec(spec.method).uses_checkpoints):
        return ()
    return open_checkpoints(model, place.artifacts, place.scratch)


def _completed(found: EngineDiagnostics, digests: Mapping[str, str], seed: int) -> Diagnostics:
    return found.complete(recipe=DAMPED_RECIPE if found.damping > 0 else RECIPE, seed=seed, digests=digests)


def _out_of_memory() -> ResourceExhausted:
    text = "the task needs more memory than its device has: ask for fewer rows at once, or select fewer parameters"
    return ResourceExhausted(Reason.OUT_OF_MEMORY, text)


@cache
def code_digest() -> str:
    """Return the sha256 over the service's own sources: two answers with the same digests were computed alike."""
    digest = hashlib.sha256()
    root = Path(undue_service.__file__).parent
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder) / name
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
