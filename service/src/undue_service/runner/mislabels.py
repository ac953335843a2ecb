"""Mislabels jobs: what the engine found, as a result file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from undue_service.datasets.source import DatasetSource
from undue_service.domain.mislabels import Mislabels
from undue_service.domain.reports import InfluenceReport, Produced, TaskResult
from undue_service.domain.tasks import MislabelsTask
from undue_service.engine.mislabels.finding import MislabelCurves, find_mislabels
from undue_service.engine.mislabels.intervals import mean_interval
from undue_service.engine.mislabels.suspecting import Suspects, find_suspects
from undue_service.engine.objective import Objective
from undue_service.engine.queries import RowFacts
from undue_service.wire.examples import encode_texts
from undue_service.wire.results import write

from .place import Place, code_digest
from .recipes import recipe_of
from .results import facts
from .rows import SourceRows


def run_mislabels(
    task: MislabelsTask, place: Place, objective: Objective, scoring: Objective, block_bytes: int
) -> TaskResult:
    """Return what a job found.

    Args:
        task: what is asked.
        place: where the data is, and where results go.
        objective: of the fits.
        scoring: the same model in the precision of the method of self-influence.
        block_bytes: the engine's budget.
    """
    spec, train = task.spec, place.source(task.train)
    recipe = recipe_of(task.model, place)
    shared = {"scoring": scoring, "recipe": recipe, "memory_bytes": block_bytes, "progress": place.report}
    if task.test is None:
        listed = find_suspects(objective, SourceRows(train), spec, **shared)
        return _result(task, spec, listed, (_write_suspects(place.scratch, listed, train),), 0, len(train))
    test = place.source(task.test)
    found = find_mislabels(objective, SourceRows(train), SourceRows(test), spec, **shared)
    return _result(task, spec, found, (_write_curves(place.scratch, found),), len(test), len(train))


def _result(
    task: MislabelsTask, spec: Mislabels, found: MislabelCurves | Suspects, files: tuple[Produced, ...], m: int, n: int
) -> TaskResult:
    digests = task.digests | {"code": code_digest()}
    diagnostics = found.diagnostics.complete(recipe=found.recipe, seed=spec.seed, digests=digests)
    return TaskResult(InfluenceReport(diagnostics, m, n), files)


def _write_curves(folder: Path, found: MislabelCurves) -> Produced:
    arrays = {
        "rankings": encode_texts(found.rankings),
        "budgets": np.array(found.budgets),
        "checked": found.checked.astype(np.int64),
        "found": found.found,
        "accuracy": found.accuracy,
        "found_interval": _intervals(found.found),
        "accuracy_interval": _intervals(found.accuracy),
        "accuracy_wrong": found.accuracy_wrong,
        "accuracy_right": np.array([found.accuracy_right]),
        "wrong": np.array([found.wrong], dtype=np.int64),
    }
    write(folder / "mislabels.safetensors", arrays)
    return Produced("mislabels", "mislabels.safetensors")


def _write_suspects(folder: Path, found: Suspects, train: DatasetSource) -> Produced:
    arrays = facts("", RowFacts.joined(found.rows), train)
    arrays |= {"score": found.scores.reshape(-1), "rankings": encode_texts(found.rankings)}
    write(folder / "suspects.safetensors", arrays)
    return Produced("suspects", "suspects.safetensors")


def _intervals(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bounds of the mean over repetitions of values (R, S, B), (R, B, 2)."""

    def bounds(of_seeds: Sequence[float]) -> tuple[float, float]:
        interval = mean_interval(of_seeds)
        return interval.low, interval.high

    return np.array([[bounds(of_budget) for of_budget in of_ranking.T.tolist()] for of_ranking in values])
