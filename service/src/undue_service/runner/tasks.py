"""What a runner can do: one method a kind of task, over models, data sets and the engine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from undue_service.datasets.source import DatasetSource
from undue_service.domain.costs import BLOCK_BYTES
from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.influence import Influence
from undue_service.domain.methods import method_spec
from undue_service.domain.reports import (
    InfluenceReport,
    ModelReport,
    Produced,
    RowsReport,
    TaskResult,
)
from undue_service.domain.specs import ModelSpec, ScoringJob
from undue_service.domain.tasks import (
    CompareTask,
    DatasetTask,
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
    RequestedTask,
    RetrainTask,
    RowsTask,
    SelfInfluenceTask,
    Task,
)
from undue_service.engine.attribution import Attribution, influence, self_influence
from undue_service.engine.curvature.trace import SEED
from undue_service.engine.fidelity import FidelityResult, fidelity
from undue_service.engine.gradients import is_out_of_memory
from undue_service.engine.linear_diagnostics import linear_diagnostics
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.retrain import retrain

from .comparing import comparison_of
from .edits import edits_of
from .faults import out_of_memory
from .groups import group_influence_of
from .indexes.tasks import SERVE_BYTES, IndexTasks
from .mislabels import run_mislabels
from .opening import Models, RegisteredWeights
from .perturbing import perturb
from .place import Place, Report, code_digest
from .recipes import checkpoints_of, completed, recipe_of
from .reports import dataset_report, model_report
from .results import (
    coefficient_names,
    write_comparisons,
    write_counterfactuals,
    write_influence,
    write_leverages,
    write_rows,
    write_self_influence,
)
from .rows import SourceRows
from .sources import Shelf
from .speed import peak_bytes


class Workshop:
    """Runs tasks on one device, with `block_bytes` of its memory for the intermediate values of a block of rows."""

    def __init__(self, device: str, block_bytes: int = BLOCK_BYTES, serve_bytes: int = SERVE_BYTES) -> None:
        self._device = torch.device(device)
        self._block_bytes = block_bytes
        self._models = Models(self._device)
        self._shelf = Shelf()
        self._indexes = IndexTasks(self._models, block_bytes, serve_bytes)

    def run(
        self,
        task: Task,
        artifacts: Mapping[str, Path],
        scratch: Path,
        report: Report,
        *,
        workspace: Path | None = None,
        attachment: bytes = b"",
    ) -> TaskResult:
        """Run one task.

        Args:
            task: what to do.
            artifacts: files by digest.
            scratch: an empty folder for what it leaves.
            report: is told how far it has come.
            workspace: a folder that outlives the attempt.
            attachment: arrays that come with the task.

        Raises:
            Error: whatever is wrong with the model, the data or the request.
        """
        place = Place(artifacts, scratch, report, self._shelf, workspace, attachment)
        try:
            result = self._run(task, place)
            place.check()
            return result
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory() from error
            raise

    def peak_bytes(self) -> int:
        """Return the most memory of the device that this process has held so far."""
        return peak_bytes(self._device)

    def resident_bytes(self) -> int:
        """Return what the indexes take that are held in memory."""
        return self._indexes.resident_bytes()

    def _run(self, task: Task, place: Place) -> TaskResult:
        match task:
            case DatasetTask(source=source):
                return TaskResult(dataset_report(source, place.source(source), place.report))
            case RowsTask(source=source, rows=rows):
                files = (write_rows(place.scratch, place.source(source, keep=True), rows),)
                return TaskResult(RowsReport(len(rows)), files)
            case ModelTask():
                return TaskResult(self._model_report(task, place))
            case IndexBuildTask() | IndexExtendTask() | IndexCompactTask() | OpenIndexTask() | ExplainTask():
                return self._indexes.run(task, place)
            case _:
                return self._requested(task, place)

    def _requested(self, task: RequestedTask, place: Place) -> TaskResult:
        match task:
            case InfluenceTask():
                return self._influence(task, place)
            case SelfInfluenceTask():
                return self._self_influence(task, place)
            case RetrainTask():
                return self._retrain(task, place)
            case FidelityTask():
                return self._fidelity(task, place)
            case LeverageTask():
                return self._leverage(task, place)
            case MislabelsTask():
                return self._mislabels(task, place)
            case PerturbTask():
                objective = self._models.objective(task.model, place.artifacts, place.scratch, precision="registered")
                return perturb(task, objective, place, self._block_bytes)
            case GroupInfluenceTask():
                return group_influence_of(task, place, self._models, self._block_bytes)
            case CompareTask():
                return comparison_of(task, place, self._models, self._block_bytes)

    def _model_report(self, task: ModelTask, place: Place) -> ModelReport:
        place.report("opening the model", 0, 0)
        objective = self._objective(task.model, place)
        opened = self._models.open(task.model, place.artifacts, place.scratch)
        sample = place.source(task.sample) if task.sample is not None else None
        weights = RegisteredWeights(opened, objective, task.model, place.artifacts, place.scratch)
        weights.check_initial()
        return model_report(opened, objective, sample, weights.checkpoints(), place.report)

    def _influence(self, task: InfluenceTask, place: Place) -> TaskResult:
        spec = task.spec
        train, test = place.source(task.train), place.source(task.test)
        if spec.fidelity is not None:
            self._check_matrix(len(spec.rows) or len(test), len(train))
        found = self._attributed(spec, task.model, train, test, place, keep_scores=spec.fidelity is not None)
        diagnostics = completed(found.diagnostics, task.digests | {"code": code_digest()}, spec.seed)
        if spec.fidelity is not None:
            held = self._held(spec.fidelity, found, spec.measurement, task.model, train, test, place)
            diagnostics = replace(diagnostics, fidelity=held.finding)
        kept = found if spec.top_k is None else replace(found, scores=None)
        files = write_influence(place.scratch, kept, train, test)
        return TaskResult(InfluenceReport(diagnostics, len(found.test.rows), len(train)), files)

    def _fidelity(self, task: FidelityTask, place: Place) -> TaskResult:
        spec, scoring = task.spec, task.spec.scoring()
        train, test = place.source(task.train), place.source(task.test)
        self._check_matrix(len(spec.rows) or len(test), len(train))
        found = self._attributed(scoring, task.model, train, test, place, keep_scores=True)
        held = self._held(spec.settings, found, spec.measurement, task.model, train, test, place)
        diagnostics = completed(found.diagnostics, task.digests | {"code": code_digest()}, spec.seed)
        report = InfluenceReport(replace(diagnostics, fidelity=held.finding), len(held.rows), len(train))
        return TaskResult(report, (write_comparisons(place.scratch, held),))

    def _check_matrix(self, m: int, n: int) -> None:
        """Refuse, before anything is computed, what would not fit at its end."""
        if 4 * m * n > self._block_bytes:
            text = (
                f"the scores of {n:,} training rows for {m:,} test rows, which are held against retraining, take "
                f"{4 * m * n / 2**30:.1f} GiB, more than the {self._block_bytes / 2**30:.1f} GiB allowed: ask for "
                f"{self._block_bytes // (4 * n):,} rows or fewer"
            )
            raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)

    def _held(
        self,
        settings: FidelitySettings,
        found: Attribution,
        measurement: str,
        model: ModelSpec,
        train: DatasetSource,
        test: DatasetSource,
        place: Place,
    ) -> FidelityResult:
        """Hold scores against retraining what was registered, whichever parameters they run over."""
        assert found.scores is not None  # noqa: S101  they were asked for
        return fidelity(
            self._objective(model, place),
            SourceRows(train),
            SourceRows(test),
            scores=found.scores,
            rows=found.test.rows,
            scale=found.diagnostics.scale,
            settings=settings,
            recipe=recipe_of(model, place),
            measurement=measurement,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )

    def _attributed(
        self,
        spec: Influence,
        model: ModelSpec,
        train: DatasetSource,
        test: DatasetSource,
        place: Place,
        *,
        keep_scores: bool,
    ) -> Attribution:
        return influence(
            self._objective(model, place, spec),
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
            checkpoints=checkpoints_of(model, spec.method, spec.ensemble, place),
            ensemble=spec.ensemble,
            keep_scores=keep_scores,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )

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
            checkpoints=checkpoints_of(task.model, spec.method, spec.ensemble, place),
            ensemble=spec.ensemble,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )
        files: tuple[Produced, ...] = (write_self_influence(place.scratch, found, train),)
        digests = task.digests | {"code": code_digest()}
        diagnostics = completed(found.diagnostics, digests, spec.seed)
        return TaskResult(InfluenceReport(diagnostics, len(found.train.rows), len(train)), files)

    def _retrain(self, task: RetrainTask, place: Place) -> TaskResult:
        spec = task.spec
        objective = self._objective(task.model, place)
        train = place.source(task.train)
        rows = SourceRows(train)
        found = retrain(
            objective,
            rows,
            SourceRows(place.source(task.test)),
            without=spec.without,
            edits=edits_of(spec.counterfactuals, rows),
            rows=spec.rows or None,
            measurement=spec.measurement,
            tolerance=spec.tolerance,
            max_iterations=spec.max_iterations,
            recipe=recipe_of(task.model, place),
            start=spec.start,
            seeds=spec.seeds,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )
        by_recipe = task.model.training if objective.head is None else None
        seed = SEED if by_recipe is None else by_recipe.seed
        digests = task.digests | {"code": code_digest()}
        diagnostics = found.diagnostics.complete(recipe=found.recipe, seed=seed, digests=digests)
        report = InfluenceReport(diagnostics, len(found.rows), len(train))
        return TaskResult(report, (write_counterfactuals(place.scratch, found),))

    def _leverage(self, task: LeverageTask, place: Place) -> TaskResult:
        objective, train = self._objective(task.model, place), place.source(task.train)
        found = linear_diagnostics(
            objective,
            SourceRows(train),
            damping=task.spec.damping,
            dfbeta=task.spec.dfbeta,
            memory_bytes=self._block_bytes,
            progress=place.report,
        )
        diagnostics = completed(found.diagnostics, task.digests | {"code": code_digest()}, SEED)
        file = write_leverages(place.scratch, found, coefficient_names(objective.space), train)
        return TaskResult(InfluenceReport(diagnostics, len(train), len(train)), (file,))

    def _mislabels(self, task: MislabelsTask, place: Place) -> TaskResult:
        objective, scores = self._objective(task.model, place), task.spec.scoring()
        scoring = objective if scores is None else self._objective(task.model, place, scores)
        return run_mislabels(task, place, objective, scoring, self._block_bytes)

    def _objective(self, model: ModelSpec, place: Place, spec: ScoringJob | None = None) -> Objective:
        """Return the model with its objective: for scores, in the precision of their method; else in float64."""
        if spec is None:
            return self._models.objective(model, place.artifacts, place.scratch)
        precision = method_spec(spec.method).precision
        return self._models.objective(
            model, place.artifacts, place.scratch, parameters=spec.parameters, precision=precision
        )
