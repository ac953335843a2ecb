"""How well rankings find mislabelled training rows, and what putting these right is worth."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.mislabels import Mislabels, RankingName, check_mislabels
from undue_service.engine.data import Rows
from undue_service.engine.diagnostics import EngineDiagnostics
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.retraining.training import Recipe

from .choosing import choose_fits
from .fits import Fits, check_labelled
from .fitted import Sight, check_memory, of_rankings
from .labels import Mistakes, Relabelled, classes_of, flipped, known_mistakes, labels_of
from .rankings import ranked
from .recipe_fits import RecipeFits

_FEW_REPETITIONS = 5


@dataclass(frozen=True)
class MislabelCurves:
    """R rankings at B budgets in S repetitions, on n training rows of which w are wrong."""

    rankings: tuple[RankingName, ...]
    budgets: tuple[float, ...]
    checked: NDArray[np.int64]
    """(B,) rows that are looked at."""
    wrong: int
    """w."""
    found: NDArray[np.float64]
    """(R, S, B): share of the wrong rows among those looked at."""
    accuracy: NDArray[np.float64]
    """(R, S, B): on the test rows, once the wrong rows that were looked at are put right and the model fitted again."""
    accuracy_wrong: NDArray[np.float64]
    """(S,): of the model that is fitted to all mistakes."""
    accuracy_right: float
    """Of the model that is fitted to none."""
    diagnostics: EngineDiagnostics
    recipe: str
    """In words, how the fits are made."""


def find_mislabels(
    objective: Objective,
    train: Rows,
    test: Rows,
    spec: Mislabels,
    *,
    scoring: Objective | None = None,
    recipe: Recipe | None = None,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> MislabelCurves:
    """Plant mistakes or take those that are known, rank the rows, and look at as many as each budget allows.

    In each repetition the model is fitted to the labels with the mistakes, and every ranking sees that fit. Of the rows
    that a ranking puts first as many are looked at as the budget allows; those that are wrong get their right labels
    back, or are left out where these are not known, and the model is fitted again.

    Args:
        objective: a classification, in float64 where it has a linear head.
        train: the n training rows.
        test: where accuracy is measured.
        spec: protocol "flip" or "known", budgets, repetitions, rankings.
        scoring: the same model in the precision of the method of self-influence; None is `objective`.
        recipe: how a model that is no linear head was trained.
        memory_bytes: budget of what is kept of the rows, and of intermediate values.
        progress: told of the repetition and of what it is at.

    Raises:
        InvalidArgument: INVALID_FIELD, ROW_OUT_OF_RANGE, INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING,
            METHOD_UNKNOWN; OBJECTIVE_MISMATCH for a regression.
        FailedPrecondition: RECIPE_MISSING, RETRAIN_UNSUPPORTED, WEIGHTS_MISMATCH, TOO_MANY_PARAMETERS,
            SOLVER_NOT_CONVERGED, NON_FINITE_RESULT, and as `self_influence`.
        ResourceExhausted: OUT_OF_MEMORY.
    """
    started = time.perf_counter()
    check_mislabels(spec, "")
    check_labelled(test)
    check_memory(objective, len(train), memory_bytes)
    told = _Told(progress, spec.seeds)
    labels = labels_of(objective, train, memory_bytes=memory_bytes // 4)
    fits = choose_fits(
        objective, train, test, recipe=recipe, start=spec.start, memory_bytes=memory_bytes, progress=told
    )
    sight = Sight(spec, objective, scoring or objective, train, lambda: fits, memory_bytes, told)
    checked = np.array([max(1, round(budget * len(labels))) for budget in spec.budgets])
    R, S, B = len(spec.rankings), spec.seeds, len(checked)
    found, accuracy, before = np.empty((R, S, B)), np.empty((R, S, B)), np.empty(S)
    right: Tensor | None = None
    wrong = 0
    for s in range(S):
        told.repetition = s + 1
        mistakes = _mistakes(spec, labels, classes_of(objective), spec.seed + s)
        wrong = len(mistakes.wrong)
        if right is None:
            right = fits.fit([mistakes.after(np.ones(wrong, dtype=bool))])
        fit = fits.fit([mistakes.after(np.zeros(wrong, dtype=bool))], near=right[0])
        before[s] = float(fits.accuracies(fit)[0])
        rows = Relabelled(train, mistakes.labels) if mistakes.planted else train
        scores = sight.scores(fit[0], fits.outputs(fit[0]), mistakes.labels, rows, mistakes.without, spec.seed + s)
        orders = [ranked(scores[name]).numpy() for name in spec.rankings]
        looked_at = np.array([np.isin(mistakes.wrong, order[:count]) for order in orders for count in checked])
        found[:, s] = looked_at.mean(axis=1).reshape(R, B)
        fixed = fits.fit([mistakes.after(mask) for mask in looked_at], near=fit[0])
        accuracy[:, s] = fits.accuracies(fixed).numpy().reshape(R, B)
    assert right is not None  # noqa: S101  there is at least one repetition
    return MislabelCurves(
        rankings=spec.rankings,
        budgets=spec.budgets,
        checked=checked,
        wrong=wrong,
        found=found,
        accuracy=accuracy,
        accuracy_wrong=before,
        accuracy_right=float(fits.accuracies(right)[0]),
        diagnostics=sight.diagnostics(fits.solver, time.perf_counter() - started, _warnings(spec, objective, fits)),
        recipe=fits.recipe(),
    )


class _Told:
    """Says in which repetition something is done."""

    def __init__(self, progress: Progress, repetitions: int) -> None:
        self.repetition = 0
        self._progress = progress
        self._repetitions = repetitions

    def __call__(self, stage: str, done: int, total: int) -> None:
        repetition = f"seed {self.repetition} of {self._repetitions}: " if self.repetition else ""
        self._progress(f"{repetition}{stage}", done, total)


def _warnings(spec: Mislabels, objective: Objective, fits: Fits) -> tuple[str, ...]:
    """Return what the reader should know of the curves."""
    said = list(of_rankings(spec, objective))
    if spec.seeds < _FEW_REPETITIONS:
        said.append(f"an interval over {spec.seeds} repetition(s) tells little: pass seeds={_FEW_REPETITIONS} or more")
    if spec.protocol == "known":
        said.append("the mistakes are the same in every repetition: only folds and the random order differ")
    if isinstance(fits, RecipeFits) and fits.starts_warm:
        text = (
            "every training starts from the registered weights, which have seen the labels as they are registered: it "
            'learns the others only as far as its epochs go; register the recipe with init= and pass start="cold"'
        )
        said.append(text)
    return tuple(said)


def _mistakes(spec: Mislabels, labels: Tensor, classes: int, seed: int) -> Mistakes:
    if spec.protocol == "flip":
        return flipped(labels, classes, spec.flip, seed)
    if spec.known is None:
        raise InvalidArgument.at("known", "name the training rows that are known to be wrong")
    return known_mistakes(labels, classes, spec.known)
