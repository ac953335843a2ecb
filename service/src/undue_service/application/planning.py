"""Turn a job into a runner's task, and what the runner leaves into artifacts."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from undue_service.domain.comparison import Compare
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.group_influence import GroupInfluence
from undue_service.domain.index_jobs import IndexBuild, IndexCompact, IndexExtend
from undue_service.domain.indexes import Index
from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Job
from undue_service.domain.leverage import Leverage
from undue_service.domain.mislabels import Mislabels
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.reports import (
    DatasetReport,
    ExplainReport,
    IndexReport,
    InfluenceReport,
    ModelReport,
    OpenedReport,
    PerturbationReport,
    RowsReport,
    TaskResult,
)
from undue_service.domain.resources import Registration
from undue_service.domain.retraining import Retrain
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import CheckpointSpec, DataSource, ModelSpec, RequestedJob, ResumedJob
from undue_service.domain.tasks import (
    CompareTask,
    DatasetTask,
    ExplainCall,
    ExplainTask,
    FidelityTask,
    GroupInfluenceTask,
    IndexBuildTask,
    IndexCompactTask,
    IndexExtendTask,
    InfluenceTask,
    LeverageTask,
    MislabelsTask,
    ModelTask,
    OpenIndexTask,
    PerturbTask,
    RetrainTask,
    RowsTask,
    SelfInfluenceTask,
    Task,
)
from undue_service.domain.validations import DatasetValidation, ModelValidation

from .index_tasks import IndexTasks
from .ports import NOWHERE, ArtifactStore, RunnerLostError, Staging, Work
from .registration import Registrations
from .validated import model_spec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Left:
    """What a task must leave."""

    report: type
    roles: frozenset[str] = frozenset()
    """Of files, those that stay what they are included."""
    others: re.Pattern[str] = re.compile("(?!)")
    """Of files that it may leave beside these."""


_INDEX = _Left(IndexReport, frozenset({"manifest", "fit"}), re.compile(r"(shard|rows)-[a-z0-9-]{1,64}"))
_EXPECTED: Mapping[type, _Left] = {
    DatasetTask: _Left(DatasetReport),
    ModelTask: _Left(ModelReport),
    InfluenceTask: _Left(InfluenceReport, frozenset({"explanations"}), re.compile("scores")),
    SelfInfluenceTask: _Left(InfluenceReport, frozenset({"self_influences"})),
    RetrainTask: _Left(InfluenceReport, frozenset({"counterfactuals"})),
    FidelityTask: _Left(InfluenceReport, frozenset({"comparisons"})),
    LeverageTask: _Left(InfluenceReport, frozenset({"leverages"})),
    PerturbTask: _Left(PerturbationReport, frozenset({"perturbations", "poisoned"})),
    MislabelsTask: _Left(InfluenceReport, others=re.compile("mislabels|suspects")),
    GroupInfluenceTask: _Left(InfluenceReport, frozenset({"explanations", "group_influences"})),
    CompareTask: _Left(InfluenceReport, frozenset({"row_comparisons"})),
    RowsTask: _Left(RowsReport, frozenset({"rows"})),
    IndexBuildTask: _INDEX,
    IndexExtendTask: _INDEX,
    IndexCompactTask: _INDEX,
    OpenIndexTask: _Left(OpenedReport),
    ExplainTask: _Left(ExplainReport),
}


class Planner:
    """Makes the work of a job, and takes its results in."""

    def __init__(
        self, registrations: Registrations, artifacts: ArtifactStore, staging: Staging, indexes: IndexTasks
    ) -> None:
        self._registrations = registrations
        self._indexes = indexes
        self._artifacts = artifacts
        self._staging = staging

    def plan(self, job: Job) -> Work:
        """Return the work of a job, with a fresh scratch folder, and with its workspace where it can be resumed.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
            NotFound: a resource or an artifact is gone.
        """
        task, digests = self._task(job)
        paths = self._paths(job.tenant, digests)
        workspace = self._staging.workspace(job.id) if isinstance(job.spec, ResumedJob) else None
        # Each attempt has a folder of its own: an attempt that was overtaken must not clear its successor's away.
        scratch = self._staging.scratch(f"{job.id}-{job.attempt}")
        return Work(job.tenant, job.id, task, paths, scratch, workspace=workspace)

    def plan_rows(self, tenant: str, key: str, dataset: Registration, rows: tuple[int, ...]) -> Work:
        """Return the work of reading some rows, with a fresh scratch folder.

        Raises:
            NotFound: an artifact is gone.
        """
        source = self._registrations.source(dataset)
        paths = self._paths(tenant, source.digests())
        return Work(tenant, key, RowsTask(source, rows), paths, self._staging.scratch(f"rows-{key}"), lane="serve")

    def plan_open(self, tenant: str, key: str, index: Index) -> Work:
        """Return the work of holding an index that is ready in memory, with a fresh scratch folder.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
            NotFound: its model, one of its data sets or an artifact is gone. Where a job has changed the index since it
                was read, so are files that it had then: read it again.
        """
        held, digests = self._indexes.held(index.ready())
        scratch = self._staging.scratch(f"open-{key}")
        return Work(tenant, key, OpenIndexTask(held), self._paths(tenant, digests), scratch, lane="serve")

    def plan_explain(
        self, tenant: str, key: str, index: Index, calls: tuple[ExplainCall, ...], attachment: bytes
    ) -> Work:
        """Return the work of explaining some calls from an index that a runner holds. Touches neither disk nor store.

        Args:
            tenant: whose calls they are.
            key: of this work.
            index: as it is now.
            calls: of one batch.
            attachment: their rows.
        """
        task = ExplainTask(index.name, index.revision, calls)
        return Work(tenant, key, task, {}, NOWHERE, lane="serve", attachment=attachment)

    def read(self, work: Work, result: TaskResult, reader: Callable[[Path], T]) -> T:
        """Return what `reader` finds in the one file that a runner left.

        Raises:
            RunnerLostError: the result is not one of this task, or its file cannot be read.
            Internal: the runner named what is no plain file in its folder.
        """
        self.check(work, result)
        taken = self._staging.take(work.scratch, result.files[0].path)
        try:
            return reader(taken)
        except ValueError as error:
            raise RunnerLostError("the runner left a file that does not parse", "nonsense") from error
        finally:
            taken.unlink(missing_ok=True)

    def collect(self, work: Work, result: TaskResult) -> dict[str, str]:
        """Keep what a runner produced and return the digest of each role, of files that stay what they are too.

        Raises:
            RunnerLostError: the result is not one of this task.
            Internal: the runner named what is no plain file in its folder.
            NotFound: a file that should stay what it is is gone.
        """
        self.check(work, result)
        held = _held(work.task)
        found = {role: held[role] for role in result.kept}
        for file in result.files:
            taken = self._staging.take(work.scratch, file.path)
            try:
                found[file.role] = self._artifacts.keep(work.tenant, taken)
            finally:
                taken.unlink(missing_ok=True)
        # The first of many files may have grown old, by the measure of what was released, while the last one was kept.
        for role, digest in found.items():
            if self._artifacts.renew(work.tenant, digest) is None:
                text = f"the file {role!r} of the result is gone: sha256:{digest}"
                raise NotFound(Reason.RESOURCE_NOT_FOUND, text, metadata={"sha256": digest})
        return found

    @staticmethod
    def check(work: Work, result: TaskResult) -> None:
        """Hold a result against its task.

        Raises:
            RunnerLostError: it is not one of this task.
        """
        left = _EXPECTED[type(work.task)]
        roles = [*result.kept, *(file.role for file in result.files)]
        fits = (
            isinstance(result.report, left.report)
            and len(set(roles)) == len(roles)
            and left.roles <= set(roles)
            and all(left.others.fullmatch(role) for role in set(roles) - left.roles)
            and set(result.kept) <= _held(work.task).keys()
        )
        if not fits:
            raise RunnerLostError("the runner sent the result of another kind of task", "nonsense")

    def discard(self, work: Work) -> None:
        """Remove the scratch folder. What a later attempt can go on from stays."""
        if work.scratch != NOWHERE:
            self._staging.discard_scratch(work.scratch.name)

    def _paths(self, tenant: str, digests: Iterable[str]) -> dict[str, Path]:
        return {digest: self._artifacts.path(tenant, digest) for digest in digests}

    def _task(self, job: Job) -> tuple[Task, tuple[str, ...]]:
        match job.spec:
            case DatasetValidation() | ModelValidation() as spec:
                return self._validation(job, spec)
            case IndexBuild() | IndexExtend() | IndexCompact() as spec:
                return self._indexes.task(job, spec)
            case spec:
                return self._requested(job, spec)

    def _validation(self, job: Job, spec: DatasetValidation | ModelValidation) -> tuple[Task, tuple[str, ...]]:
        whole = self._registrations.source
        match spec:
            case DatasetValidation(dataset=name):
                source = whole(self._registrations.get(job.tenant, "datasets", "dataset", name))
                return DatasetTask(source), source.digests()
            case ModelValidation(model=name):
                model = model_spec(self._registrations.get(job.tenant, "models", "model", name))
                sample = whole(self._dataset(job, model.sample)) if model.sample is not None else None
                return ModelTask(model, sample), (*model.digests(), *(sample.digests() if sample else ()))

    def _requested(self, job: Job, asked: RequestedJob) -> tuple[Task, tuple[str, ...]]:
        match asked:
            case Influence() as spec:
                model, (train, test), found, needed = self._trained(job, spec.model, spec.train, spec.test)
                return InfluenceTask(spec, model, train, test, found), needed
            case Retrain() as spec:
                model, (train, test), found, needed = self._trained(job, spec.model, spec.train, spec.test)
                return RetrainTask(spec, model, train, test, found), needed
            case Fidelity() as spec:
                model, (train, test), found, needed = self._trained(job, spec.model, spec.train, spec.test)
                return FidelityTask(spec, model, train, test, found), needed
            case SelfInfluence() as spec:
                model, (train,), found, needed = self._trained(job, spec.model, spec.train)
                return SelfInfluenceTask(spec, model, train, found), needed
            case Perturb() as spec:
                model, (train, test), found, needed = self._trained(job, spec.model, spec.train, spec.test)
                return PerturbTask(spec, model, train, test, found), needed
            case Leverage() as spec:
                model, (train,), found, needed = self._trained(job, spec.model, spec.train)
                return LeverageTask(spec, model, train, found), needed
            case Mislabels() as spec:
                named = (spec.train, *([spec.test] if spec.test else []))
                model, (train, *tests), found, needed = self._trained(job, spec.model, *named)
                return MislabelsTask(spec, model, train, tests[0] if tests else None, found), needed
            case GroupInfluence() as spec:
                model, (train, test), found, needed = self._trained(job, spec.model, spec.train, spec.test)
                return GroupInfluenceTask(spec, model, train, test, found), needed
            case Compare() as spec:
                model, (train, test), found, needed = self._trained(job, spec.model, spec.train, spec.test)
                if spec.other is None:
                    return CompareTask(spec, model, None, train, test, found), needed
                other, _, of_other, more = self._trained(job, spec.other)
                found |= {f"other_{part}": digest for part, digest in of_other.items()}
                return CompareTask(spec, model, other, train, test, found), tuple(dict.fromkeys((*needed, *more)))

    def _trained(
        self, job: Job, model: str, *datasets: str
    ) -> tuple[ModelSpec, tuple[DataSource, ...], dict[str, str], tuple[str, ...]]:
        """Return a model and its data sets, their digests by part, and the artifacts that they are made of."""
        registered = self._registrations.get(job.tenant, "models", "model", model).ready()
        read = [self._dataset(job, name) for name in datasets]
        sources = tuple(self._registrations.source(one) for one in read)
        parts = zip(("model", "train", "test"), (registered, *read), strict=False)
        spec = model_spec(registered)
        needed = (*spec.digests(), *(digest for source in sources for digest in source.digests()))
        found = {part: one.content_digest for part, one in parts}
        if spec.checkpoints:
            found["checkpoints"] = _digest(spec.checkpoints)
        return spec, sources, found, needed

    def _dataset(self, job: Job, name: str) -> Registration:
        return self._registrations.get(job.tenant, "datasets", "dataset", name).ready()


def _held(task: Task) -> Mapping[str, str]:
    """Return the files of which a task may say that they stay what they are."""
    return task.held.files if isinstance(task, IndexExtendTask | IndexCompactTask) else {}


def _digest(checkpoints: Sequence[CheckpointSpec]) -> str:
    """sha256 over the files and learning rates of checkpoints."""
    text = "\n".join(f"{one.weights.digest} {one.learning_rate!r}" for one in checkpoints)
    return hashlib.sha256(text.encode()).hexdigest()
