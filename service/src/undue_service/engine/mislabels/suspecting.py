"""Which rows of training data to look at first, as they are: nothing is known to be wrong."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from undue_service.domain.mislabels import Mislabels, RankingName, check_mislabels
from undue_service.engine.data import Rows
from undue_service.engine.diagnostics import EngineDiagnostics
from undue_service.engine.gradients import block_rows, training_batches
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.queries import RowFacts, row_facts
from undue_service.engine.retraining.edits import Edit
from undue_service.engine.retraining.training import Recipe

from .choosing import choose_fits
from .fits import Fits
from .fitted import Sight, check_memory, of_rankings
from .labels import labels_of
from .rankings import ranked


@dataclass(frozen=True)
class Suspects:
    """The k most suspicious rows of R rankings."""

    rankings: tuple[RankingName, ...]
    rows: tuple[RowFacts, ...]
    """For each ranking k rows, the most suspicious first: what the registered model makes of them."""
    scores: NDArray[np.float64]
    """(R, k), descending."""
    diagnostics: EngineDiagnostics
    recipe: str
    """In words, what was fitted."""


def find_suspects(
    objective: Objective,
    train: Rows,
    spec: Mislabels,
    *,
    scoring: Objective | None = None,
    recipe: Recipe | None = None,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Suspects:
    """Rank the rows as they are, by the model at its registered weights; nothing is flipped.

    Confident learning alone fits models, on the folds of its cross-validation.

    Args:
        objective: a classification, in float64 where it has a linear head, at the weights trained on `train`.
        train: the n training rows.
        spec: rankings and top_k.
        scoring: the same model in the precision of the method of self-influence; None is `objective`.
        recipe: how a model that is no linear head was trained.
        memory_bytes: budget of what is kept of the rows, and of intermediate values.
        progress: told between blocks.

    Raises:
        InvalidArgument: as `find_mislabels`.
        FailedPrecondition: as `find_mislabels`; RECIPE_MISSING for confident learning alone.
        ResourceExhausted: OUT_OF_MEMORY.
    """
    started = time.perf_counter()
    check_mislabels(spec, "")
    check_memory(objective, len(train), memory_bytes)
    labels = labels_of(objective, train, memory_bytes=memory_bytes // 4)
    made: list[Fits] = []

    def fits() -> Fits:
        made.append(
            choose_fits(
                objective, train, None, recipe=recipe, start=spec.start, memory_bytes=memory_bytes, progress=progress
            )
        )
        return made[-1]

    size = block_rows(objective, memory_bytes // 4)
    batches = training_batches(objective, train, size)
    outputs = torch.cat([objective.outputs(objective.theta, batch.inputs) for batch in batches])
    sight = Sight(spec, objective, scoring or objective, train, fits, memory_bytes, progress)
    scores = sight.scores(objective.theta, outputs, labels, train, _without, spec.seed)
    top = [ranked(scores[name])[: spec.top_k] for name in spec.rankings]
    return Suspects(
        rankings=spec.rankings,
        rows=tuple(_facts(objective, train, rows.tolist(), size) for rows in top),
        scores=np.stack([scores[name][rows].numpy() for name, rows in zip(spec.rankings, top, strict=True)]),
        diagnostics=sight.diagnostics(
            made[0].solver if made else ("", ""), time.perf_counter() - started, of_rankings(spec, objective)
        ),
        recipe=_recipe(made),
    )


def _without(rows: NDArray[np.int64]) -> Edit:
    return Edit(without=tuple(rows.tolist()))


def _facts(objective: Objective, train: Rows, rows: list[int], size: int) -> RowFacts:
    return RowFacts.joined([row_facts(objective, batch) for batch in training_batches(objective, train, size, rows)])


def _recipe(made: list[Fits]) -> str:
    if not made:
        return "the registered weights"
    return f"the registered weights; for confident_learning on the rows of the other folds, {made[0].recipe()}"
