"""Change an index: append rows to it, or write the files anew in which rows were erased."""

from dataclasses import replace

import torch
from torch import Tensor

from undue_service.domain.reports import Produced, TaskResult
from undue_service.domain.tasks import HeldIndex, IndexCompactTask, IndexedDataset, IndexExtendTask
from undue_service.engine.index import Drift, FittedIndex, Shard, drifted
from undue_service.engine.objective import Objective
from undue_service.runner.opening import Models
from undue_service.runner.place import Place
from undue_service.runner.tensor_files import write_tensors
from undue_service.runner.workspace import Workspace

from .building import finished, index_objective, workspace_of
from .files import FIT, HeldFiles, IndexFile
from .origin import origin_of
from .parts import SHARD_BYTES, SHARD_ROWS, Encoding, Shards, encoded
from .rows import JoinedRows, NamedSource

DRIFT = "rows-drift"
"""Role of the curvature of the rows that were appended."""
_DRIFT = "drift"


def extend(task: IndexExtendTask, models: Models, place: Place, memory_bytes: int) -> TaskResult:
    """Append the rows of a data set; the curvature stays as it was fitted.

    Args:
        task: to which index, and which rows.
        models: opens the model.
        place: what an interrupted attempt left is in its workspace.
        memory_bytes: budget of the intermediate values of a block of rows.

    Raises:
        FailedPrecondition: INDEX_STALE, INDEX_DAMAGED.
        Error: whatever is wrong with the model or the data.
    """
    held, datasets = task.held, (*task.held.datasets, task.added)
    files = _checked(held, place)
    manifest = files.manifest
    objective = index_objective(held.spec, held.model, models, place)
    fitted = FittedIndex.of(objective, files.tensors(FIT), manifest.fitted)
    parts = [_named(one, place) for one in datasets]
    rows = JoinedRows(parts)
    origin = origin_of(held.spec, held.model, datasets)
    workspace = workspace_of(place, origin, objective, held.files)
    place.report("curvature", 0, 0)
    drift = _drift(held, files, fitted, objective, JoinedRows(parts[-1:]), workspace, place, memory_bytes)
    first = len(rows) - len(parts[-1].source)
    shards = Shards(place.scratch, manifest.next_shard())
    encoding = Encoding(fitted, objective, rows, range(first, len(rows)), memory_bytes, place.report)
    for blocks in encoded(encoding, workspace):
        shards.add(blocks)
    shards.finish()
    path = place.scratch / "drift.safetensors"
    file = IndexFile(path.name, write_tensors(path, drift.tensors()), path.stat().st_size, 0)
    changed = {DRIFT: file, **shards.files}
    found = replace(manifest, origin=origin, files=manifest.files | changed, staleness=drift.staleness(fitted))
    kept = tuple(role for role in manifest.files if role not in changed)
    return finished(found, place, (Produced(DRIFT, path.name), *shards.produced), kept, rows_read=len(rows) - first)


def compact(task: IndexCompactTask, place: Place) -> TaskResult:
    """Write those files anew in which rows were erased, without them, and merge small ones.

    Args:
        task: of which index.
        place: where the files are.

    Raises:
        FailedPrecondition: INDEX_STALE, INDEX_DAMAGED.
    """
    files = _checked(task.held, place)
    manifest, erased = files.manifest, torch.tensor(task.held.erased, dtype=torch.int64)
    groups = _groups(files, erased)
    rewritten = {role for group in groups for role in group}
    shards = Shards(place.scratch, manifest.next_shard())
    for done, group in enumerate(groups):
        place.report("shards", done, len(groups))
        parts = [Shard.from_tensors(files.tensors(role)).without(erased) for role in group]
        remaining = [part for part in parts if len(part)]
        if remaining:
            shards.write(Shard.joined(remaining))
    kept = {role: file for role, file in manifest.files.items() if role not in rewritten}
    found = replace(manifest, files=kept | shards.files)
    return finished(found, place, shards.produced, tuple(kept))


def _groups(files: HeldFiles, erased: Tensor) -> list[list[str]]:
    """Return the shards that are written anew, together with those that they become one with.

    These are the ones in which rows were erased, and small ones that fit together.
    """
    groups: list[list[str]] = []
    room = rooms = 0
    touched: set[str] = set()
    for role, file in files.manifest.shards.items():
        gone = int(torch.isin(files.tensors(role)["rows"], erased).sum())
        if gone:
            touched.add(role)
        elif file.rows > SHARD_ROWS // 2:
            continue
        rows = file.rows - gone
        size = file.bytes * rows // max(1, file.rows)
        if not groups or rows > room or size > rooms:
            groups.append([])
            room, rooms = SHARD_ROWS, SHARD_BYTES
        groups[-1].append(role)
        room, rooms = room - rows, rooms - size
    return [group for group in groups if len(group) > 1 or touched.intersection(group)]


def _checked(held: HeldIndex, place: Place) -> HeldFiles:
    """Return the files of an index that is of what there is now."""
    files = HeldFiles(held, place.artifacts)
    now = origin_of(held.spec, held.model, held.datasets)
    files.manifest.origin.check(held.name, now, [one.name for one in held.datasets])
    return files


def _named(dataset: IndexedDataset, place: Place) -> NamedSource:
    return NamedSource(dataset.name, place.source(dataset.source))


def _drift(
    held: HeldIndex,
    files: HeldFiles,
    fitted: FittedIndex,
    objective: Objective,
    added: JoinedRows,
    workspace: Workspace,
    place: Place,
    memory_bytes: int,
) -> Drift:
    """Return the drift with that of the rows that are added."""
    found = workspace.find(_DRIFT)
    if found is not None:
        return Drift.of(found[0])
    before = Drift.of(files.tensors(DRIFT)) if DRIFT in files.manifest.files else Drift.none(fitted)
    drift = drifted(
        before, fitted, objective, added, seed=held.spec.seed, memory_bytes=memory_bytes, progress=place.report
    )
    workspace.keep(_DRIFT, drift.tensors())
    return drift
