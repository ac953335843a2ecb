"""Indexes as a runner is given them: built, changed and asked without a service."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_formats import FORMATS, Files
from dataset_tables import Table, reference_digest
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.reports import ExplainReport, IndexReport, TaskResult
from undue_service.domain.results import Answer, Questions
from undue_service.domain.specs import ModelSpec, ObjectiveSpec
from undue_service.domain.tasks import (
    ExplainCall,
    ExplainTask,
    HeldIndex,
    IndexBuildTask,
    IndexCompactTask,
    IndexedDataset,
    IndexExtendTask,
    OpenIndexTask,
    Task,
)
from undue_service.runner.tasks import Workshop
from undue_service.wire.attachments import decode_answers, encode_questions
from undue_service.wire.codec import TASK, TASK_RESULT


@dataclass
class Built:
    """An index with what its last task left."""

    held: HeldIndex
    result: TaskResult

    @property
    def report(self) -> IndexReport:
        assert isinstance(self.result.report, IndexReport)
        return self.result.report


class Bench:
    """A workshop, with the files of what it works on."""

    def __init__(self, folder: Path, **workshop: int) -> None:
        self.files = Files(folder)
        self.folder = folder
        self.workshop = Workshop("cpu", **workshop)
        self._tasks = 0

    def restarted(self, **workshop: int) -> None:
        """Go on with another process's memory."""
        self.workshop = Workshop("cpu", **workshop)

    def model(self, path: Path, objective: ObjectiveSpec, **how: object) -> ModelSpec:
        return ModelSpec("pt2", self.files.keep(path), objective, **how)

    def dataset(self, table: Table, form: str = "arrays", name: str = "datasets/train/versions/1") -> IndexedDataset:
        return IndexedDataset(name, FORMATS[form].build(table, self.files), reference_digest(table), len(table))

    def run(
        self,
        task: Task,
        workspace: Path | None = None,
        attachment: bytes = b"",
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> tuple[TaskResult, Path]:
        """Run a task as a process of its own would: through JSON, in a fresh folder."""
        self._tasks += 1
        scratch = self.folder / f"scratch-{self._tasks}"
        scratch.mkdir()
        task = TASK.load(TASK.dump(task))
        result = self.workshop.run(
            task, self.files.paths, scratch, progress, workspace=workspace, attachment=attachment
        )
        data = TASK_RESULT.dump(replace(result, attachment=b""))
        return replace(TASK_RESULT.load(data), attachment=result.attachment), scratch

    def build(
        self, spec: IndexSpec, model: ModelSpec, train: IndexedDataset, name: str = "indexes/i", **how: object
    ) -> Built:
        digests = {"model": model.digest, "train": train.digest}
        result, scratch = self.run(IndexBuildTask(spec, model, train, digests), **how)
        held = HeldIndex(name, "1-0", spec, model, (train,), self.kept({}, result, scratch))
        return Built(held, result)

    def extend(self, held: HeldIndex, added: IndexedDataset, **how: object) -> Built:
        result, scratch = self.run(IndexExtendTask(held, added, {}), **how)
        files = self.kept(held.files, result, scratch)
        return Built(replace(held, revision=f"{held.revision}x", datasets=(*held.datasets, added), files=files), result)

    def compact(self, held: HeldIndex) -> Built:
        result, scratch = self.run(IndexCompactTask(held, {}))
        return Built(replace(held, revision=f"{held.revision}c", files=self.kept(held.files, result, scratch)), result)

    def kept(self, base: Mapping[str, str], result: TaskResult, scratch: Path) -> dict[str, str]:
        """Return the files of an index by role, as the service keeps them."""
        new = {file.role: self.files.keep(scratch / file.path) for file in result.files}
        assert not new.keys() & set(result.kept)
        return {role: base[role] for role in result.kept} | new

    def open(self, held: HeldIndex) -> TaskResult:
        return self.run(OpenIndexTask(held))[0]

    def ask(
        self, held: HeldIndex, questions: Sequence[Questions], calls: Sequence[ExplainCall]
    ) -> tuple[ExplainReport, dict[int, Answer]]:
        task = ExplainTask(held.name, held.revision, tuple(calls))
        result, _ = self.run(task, attachment=encode_questions(list(questions)))
        assert isinstance(result.report, ExplainReport)
        if not result.report.resident:
            return result.report, {}
        return result.report, decode_answers(result.attachment, calls)


def erased(held: HeldIndex, rows: Sequence[int]) -> HeldIndex:
    """Return an index in which more rows are erased."""
    gone = tuple(sorted({*held.erased, *rows}))
    return replace(held, revision=f"{held.revision.rsplit('-', 1)[0]}-{len(gone)}", erased=gone)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
