"""Turn a job into a runner's task, and what the runner leaves into artifacts."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from undue_service.domain.jobs import Job
from undue_service.domain.reports import DatasetReport, InfluenceReport, ModelReport, RowsReport, TaskResult
from undue_service.domain.resources import Registration
from undue_service.domain.specs import (
    CheckpointSpec,
    DatasetValidation,
    DataSource,
    Fidelity,
    Influence,
    Leverage,
    ModelSpec,
    ModelValidation,
    Retrain,
    SelfInfluence,
)
from undue_service.domain.tasks import (
    DatasetTask,
    FidelityTask,
    InfluenceTask,
    LeverageTask,
    ModelTask,
    RetrainTask,
    RowsTask,
    SelfInfluenceTask,
    Task,
)

from .ports import ArtifactStore, RunnerLostError, Staging, Work
from .registration import Registrations

T = TypeVar("T")

_EXPECTED: Mapping[type, tuple[type, frozenset[str], frozenset[str]]] = {
    DatasetTask: (DatasetReport, frozenset(), frozenset()),
    ModelTask: (ModelReport, frozenset(), frozenset()),
    InfluenceTask: (InfluenceReport, frozenset({"explanations"}), frozenset({"scores"})),
    SelfInfluenceTask: (InfluenceReport, frozenset({"self_influences"}), frozenset()),
    RetrainTask: (InfluenceReport, frozenset({"counterfactuals"}), frozenset()),
    FidelityTask: (InfluenceReport, frozenset({"comparisons"}), frozenset()),
    LeverageTask: (InfluenceReport, frozenset({"leverages"}), frozenset()),
    RowsTask: (RowsReport, frozenset({"rows"}), frozenset()),
}
"""Task to the report that it ends with, the files that it must leave, and those that it may leave."""


class Planner:
    """Makes the work of a job, and takes its results in."""

    def __init__(self, registrations: Registrations, artifacts: ArtifactStore, staging: Staging) -> None:
        self._registrations = registrations
        self._artifacts = artifacts
        self._staging = staging

    def plan(self, job: Job) -> Work:
        """Return the work of a job, with a fresh scratch folder.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
            NotFound: a resource or an artifact is gone.
        """
        task, digests = self._task(job)
        paths: dict[str, Path] = {digest: self._artifacts.path(job.tenant, digest) for digest in digests}
        # Each attempt has a folder of its own: an attempt that was overtaken must not clear its successor's away.
        return Work(job.tenant, job.id, task, paths, self._staging.scratch(f"{job.id}-{job.attempt}"))

    def plan_rows(self, tenant: str, key: str, dataset: Registration, rows: tuple[int, ...]) -> Work:
        """Return the work of reading some rows, with a fresh scratch folder.

        Raises:
            NotFound: an artifact is gone.
        """
        source = self._registrations.source(dataset)
        paths = {digest: self._artifacts.path(tenant, digest) for digest in source.digests()}
        return Work(tenant, key, RowsTask(source, rows), paths, self._staging.scratch(f"rows-{key}"), lane="serve")

    def read(self, work: Work, result: TaskResult, reader: Callable[[Path], T]) -> T:
        """Return what `reader` finds in the one file that a runner left.

        Raises:
            RunnerLostError: the result is not one of this task, or its file cannot be read.
            Internal: the runner named what is no plain file in its folder.
        """
        self._check(work, result)
        taken = self._staging.take(work.scratch, result.files[0].path)
        try:
            return reader(taken)
        except ValueError as error:
            raise RunnerLostError("the runner left a file that does not parse", "nonsense") from error
        finally:
            taken.unlink(missing_ok=True)

    def collect(self, work: Work, result: TaskResult) -> dict[str, str]:
        """Keep what a runner produced and return the digest of each role.

        Raises:
            RunnerLostError: the result is not one of this task.
            Internal: the runner named what is no plain file in its folder.
        """
        self._check(work, result)
        kept = {}
        for file in result.files:
            taken = self._staging.take(work.scratch, file.path)
            try:
                kept[file.role] = self._artifacts.keep(work.tenant, taken)
            finally:
                taken.unlink(missing_ok=True)
        return kept

    @staticmethod
    def _check(work: Work, result: TaskResult) -> None:
        report, required, optional = _EXPECTED[type(work.task)]
        roles = [file.role for file in result.files]
        if not isinstance(result.report, report) or not required <= set(roles) <= required | optional:
            raise RunnerLostError("the runner sent the result of another kind of task", "nonsense")

    def discard(self, work: Work) -> None:
        """Remove the scratch folder."""
        self._staging.discard_scratch(work.scratch.name)

    def _task(self, job: Job) -> tuple[Task, tuple[str, ...]]:
        whole = self._registrations.source
        match job.spec:
            case DatasetValidation(dataset=name):
                source = whole(self._registrations.get(job.tenant, "datasets", "dataset", name))
                return DatasetTask(source), source.digests()
            case ModelValidation(model=name):
                model = _model(self._registrations.get(job.tenant, "models", "model", name))
                sample = whole(self._dataset(job, model.sample)) if model.sample is not None else None
                return ModelTask(model, sample), (*model.digests(), *(sample.digests() if sample else ()))
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
            case Leverage() as spec:
                model, (train,), found, needed = self._trained(job, spec.model, spec.train)
                return LeverageTask(spec, model, train, found), needed

    def _trained(
        self, job: Job, model: str, *datasets: str
    ) -> tuple[ModelSpec, tuple[DataSource, ...], dict[str, str], tuple[str, ...]]:
        """Return a model and its data sets, their digests by part, and the artifacts that they are made of."""
        registered = self._registrations.get(job.tenant, "models", "model", model).ready()
        read = [self._dataset(job, name) for name in datasets]
        sources = tuple(self._registrations.source(one) for one in read)
        parts = zip(("model", "train", "test"), (registered, *read), strict=False)
        needed = (*_model(registered).digests(), *(digest for source in sources for digest in source.digests()))
        found = {part: one.content_digest for part, one in parts}
        if _model(registered).checkpoints:
            found["checkpoints"] = _digest(_model(registered).checkpoints)
        return _model(registered), sources, found, needed

    def _dataset(self, job: Job, name: str) -> Registration:
        return self._registrations.get(job.tenant, "datasets", "dataset", name).ready()


def _digest(checkpoints: Sequence[CheckpointSpec]) -> str:
    """sha256 over the files and learning rates of checkpoints."""
    text = "\n".join(f"{one.weights.digest} {one.learning_rate!r}" for one in checkpoints)
    return hashlib.sha256(text.encode()).hexdigest()


def _model(registration: Registration) -> ModelSpec:
    assert isinstance(registration.spec, ModelSpec)  # noqa: S101  the store keeps the two collections apart
    return registration.spec
