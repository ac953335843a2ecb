"""Build an index: fit the curvature once, then encode the rows part by part."""

import json
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.methods import method_spec
from undue_service.domain.reports import Diagnostics, IndexReport, Produced, TaskResult
from undue_service.domain.specs import ModelSpec
from undue_service.domain.tasks import IndexBuildTask
from undue_service.engine.diagnostics import begin
from undue_service.engine.index import FittedIndex, Searcher, fit_index, measured_recall, precision
from undue_service.engine.methods import Problem
from undue_service.engine.objective import Objective
from undue_service.engine.solvers import Effort
from undue_service.runner.opening import Models
from undue_service.runner.place import Place, code_digest
from undue_service.runner.recipes import completed
from undue_service.runner.tensor_files import write_tensors
from undue_service.runner.workspace import Workspace
from undue_service.wire.codec import Codec

from .files import FIT, FORMAT, IndexFile, Manifest, canonical, write_manifest
from .origin import Origin, origin_of
from .parts import Encoding, Shards, encoded
from .rows import JoinedRows, NamedSource

_DIAGNOSTICS: Codec[Diagnostics] = Codec(Diagnostics)
_SOLVED = "building.solved"


@dataclass(frozen=True)
class Fit:
    """What an index shares between its rows, and what is known of it."""

    fitted: FittedIndex
    diagnostics: Diagnostics


def build(task: IndexBuildTask, models: Models, place: Place, memory_bytes: int) -> TaskResult:
    """Build an index.

    Args:
        task: of what.
        models: opens the model.
        place: what an interrupted attempt left is in its workspace.
        memory_bytes: budget of the intermediate values of a block of rows.

    Raises:
        Error: whatever is wrong with the model, the data or the request.
    """
    rows = JoinedRows([NamedSource(task.train.name, place.source(task.train.source))])
    objective = index_objective(task.spec, task.model, models, place)
    origin = origin_of(task.spec, task.model, [task.train])
    workspace = workspace_of(place, origin, objective)
    fit = _fit(task, objective, rows, place, workspace, memory_bytes)
    shards = Shards(place.scratch, 0)
    numbers, reference = [], []
    encoding = Encoding(fit.fitted, objective, rows, range(len(rows)), memory_bytes, place.report)
    for blocks in encoded(encoding, workspace):
        shards.add(blocks)
        numbers += [block.rows for block in blocks]
        reference += [block.reference for block in blocks]
    shards.finish()
    place.report("recall", 0, 0)
    searcher = Searcher(fit.fitted, objective, shards.written(objective), rows, memory_bytes=memory_bytes)
    recall = measured_recall(searcher, fit.fitted, objective, torch.cat(numbers), torch.cat(reference))
    path = place.scratch / "fit.safetensors"
    tensors = fit.fitted.tensors()
    size = sum(tensor.nbytes for tensor in tensors.values())
    file = IndexFile(path.name, write_tensors(path, tensors), path.stat().st_size, size)
    manifest = Manifest(
        format=FORMAT,
        origin=origin,
        fitted=fit.fitted.settings(),
        files={FIT: file, **shards.files},
        recall=recall,
        recall_queries=len(fit.fitted.recalled),
        staleness=0.0,
        diagnostics=fit.diagnostics,
    )
    files = (Produced(FIT, path.name), *shards.produced)
    return finished(manifest, place, files, (), rows_read=len(rows))


def index_objective(spec: IndexSpec, model: ModelSpec, models: Models, place: Place) -> Objective:
    """Return the objective whose gradients an index is of, in the precision of its method."""
    return models.objective(
        model, place.artifacts, place.scratch, parameters=spec.parameters, precision=precision(spec.method)
    )


def workspace_of(place: Place, origin: Origin, objective: Objective, *more: object) -> Workspace:
    """Return the folder of what can be gone on from, for a task of this origin and `more`."""
    key = canonical([repr(origin), objective.program.device.type, *more])
    return Workspace(place.workspace or place.scratch, key)


def finished(
    manifest: Manifest, place: Place, files: tuple[Produced, ...], kept: tuple[str, ...], *, rows_read: int = 0
) -> TaskResult:
    """Write the manifest and return what a task leaves.

    Args:
        manifest: of all files.
        place: where they are.
        files: those that are new.
        kept: roles of the others.
        rows_read: how many rows of training data were.
    """
    written, size = write_manifest(place.scratch, manifest)
    shards = manifest.shards.values()
    rows = sum(file.rows for file in shards)
    of_rows = sum(file.bytes for file in shards)
    report = IndexReport(
        rows=rows,
        bytes=size + sum(file.bytes for file in manifest.files.values()),
        bytes_per_row=of_rows / max(1, rows),
        resident_bytes=manifest.resident_bytes,
        recall=manifest.recall,
        recall_queries=manifest.recall_queries,
        staleness=manifest.staleness,
        diagnostics=manifest.diagnostics,
        rows_read=rows_read,
    )
    return TaskResult(report, (written, *files), kept)


def _fit(
    task: IndexBuildTask,
    objective: Objective,
    rows: JoinedRows,
    place: Place,
    workspace: Workspace,
    memory_bytes: int,
) -> Fit:
    """Return the fit of an earlier attempt, else fit."""
    place.report("curvature", 0, 0)
    found = workspace.find(FIT)
    if found is not None:
        return _read(objective, *found)
    started = time.perf_counter()
    spec = task.spec
    problem = Problem(
        objective,
        rows,
        spec.damping,
        spec.leverage_correction,
        memory_bytes,
        lambda _, done, total: place.report("curvature", done, total),
        seed=spec.seed,
    )
    diagnosis = begin(problem)
    fitted = fit_index(problem, spec.method)
    known = diagnosis.finish(
        objective, method_spec(spec.method), fitted.factors, Effort(), time.perf_counter() - started
    )
    fit = Fit(fitted, completed(known, task.digests | {"code": code_digest()}, spec.seed))
    workspace.keep(FIT, fitted.tensors() | {_SOLVED: fitted.solved}, _metadata(fit))
    return fit


def _metadata(fit: Fit) -> dict[str, str]:
    return {
        "settings": canonical(fit.fitted.settings()).decode(),
        "diagnostics": _DIAGNOSTICS.dump(fit.diagnostics).decode(),
    }


def _read(objective: Objective, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Fit:
    solved = tensors.pop(_SOLVED).to(objective.theta)
    fitted = FittedIndex.of(objective, tensors, json.loads(metadata["settings"]))
    return Fit(replace(fitted, solved=solved), _DIAGNOSTICS.load(metadata["diagnostics"]))
