"""What really changes when training rows are removed, replaced, relabelled or reweighted: the model is fitted again.

A linear head is fitted to its minimum (`newton_retraining`), any other model trained by the registered recipe
(`recipe_retraining`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.engine.data import Rows
from undue_service.engine.diagnostics import EngineDiagnostics, begin
from undue_service.engine.heads.newton import Newton
from undue_service.engine.measurements import check_measurement
from undue_service.engine.methods import Problem
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.queries import asked_rows

from .edits import Edit, check_edits, removing
from .newton_retraining import NewtonRefits
from .recipe_retraining import RecipeRefits, Start
from .refits import Refits
from .training import Recipe


@dataclass(frozen=True)
class Retraining:
    """What k fits to edited training rows make of m test rows."""

    rows: NDArray[np.int64]
    """(m,) test rows."""
    costs: NDArray[np.float64]
    """(m,) of the fit on all training rows; the mean over the seeds where there are several."""
    edits: tuple[Edit, ...]
    """k edits of the training rows."""
    changes: NDArray[np.float64]
    """(k, m): cost of the fit under the edit, minus `costs`."""
    gradient_norms: NDArray[np.float64]
    """(k,): ‖∇R‖ of each fit at its end; the largest over the seeds."""
    iterations: NDArray[np.int64]
    """(k,) steps: of Newton's method, or of the recipe's optimiser."""
    distance: float
    """‖θ̂ − θ̂*‖ from the registered weights to those of the fit on all training rows; the mean over the seeds."""
    recipe: str
    """In words, what was done."""
    diagnostics: EngineDiagnostics


def retrain(
    objective: Objective,
    train: Rows,
    test: Rows,
    *,
    without: Sequence[Sequence[int]] = (),
    edits: Sequence[Edit] = (),
    rows: Sequence[int] | None = None,
    measurement: str = "loss",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    recipe: Recipe | None = None,
    start: Start | None = None,
    seeds: int = 1,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Retraining:
    """Measure the change of test rows' costs on removing, replacing, relabelling or reweighting training rows.

    Of a linear head, for each edit the minimiser of (1/n) Σ_i w_i ℓ_i + l2/2 ‖mask ∘ θ‖² over the edited rows, w_i = 0
    for one that is left out and n as before, is found to ‖∇R‖ ≤ tolerance. Each fit starts from θ̂*, the minimiser on
    all rows; that is found first, from the registered weights θ̂, which may stop short of it.

    Any other model is trained by the recipe, once on all rows and once under each edit, from the same start in the
    same order of rows: a removed row's loss is masked and its batch keeps its divisor, an edited row takes its place.
    Costs are means over `seeds` such trainings, and costs before are those of the training on all rows, not those at θ̂.

    Test rows without targets are measured at the label that θ̂ predicts.

    Args:
        objective: in float64 where it has a linear head.
        train: the n rows that it was trained on.
        test: where the change is measured.
        without: sets of rows of `train`, each a counterfactual.
        edits: further counterfactuals, which come after those.
        rows: row numbers of `test`; None means all.
        measurement: the cost: "loss", "logit" or "margin".
        tolerance: of ‖∇R‖, for a linear head; None is 1e-10.
        max_iterations: Newton steps of one fit at most, for a linear head; None is 100.
        recipe: how a model that is no linear head was trained.
        start: None is "cold" where the recipe has an initialiser, else "warm".
        seeds: trainings under each edit by the recipe.
        memory_bytes: budget of what is kept of the rows, of intermediate values, and of the changes.
        progress: called between blocks.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE, INVALID_FIELD, INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING,
            MODEL_UNSUPPORTED.
        FailedPrecondition: RECIPE_MISSING where the model is no linear head and has no recipe, or a recipe without the
            start asked for; RETRAIN_UNSUPPORTED and WEIGHTS_MISMATCH where there is no such start; TOO_MANY_PARAMETERS,
            SOLVER_NOT_CONVERGED, HESSIAN_SINGULAR where the rows that are left do not determine the predictions;
            NON_FINITE_RESULT.
        ResourceExhausted: OUT_OF_MEMORY where the changes would not fit.
    """
    started = time.perf_counter()
    check_measurement(measurement, objective.loss)
    newton = Newton.asked(tolerance, max_iterations)
    wanted = asked_rows(rows, len(test))
    every = (*removing(without), *edits)
    if not every:
        text = "name at least one counterfactual: rows that are left out, or replaced, relabelled or reweighted ones"
        raise InvalidArgument.at("without", text)
    fields = [f"without[{k}]" for k in range(len(without))] + [f"counterfactuals[{k}]" for k in range(len(edits))]
    check_edits(every, objective, train, fields)
    _check_changes(len(every), len(wanted), memory_bytes)
    refits = choose_refits(
        objective,
        train,
        test,
        wanted,
        recipe=recipe,
        start=start,
        seeds=seeds,
        measurement=measurement,
        newton=newton,
        memory_bytes=memory_bytes,
        progress=progress,
    )
    if objective.head is None:
        _check_recipe_settings(tolerance, max_iterations)
    diagnosis = begin(Problem(objective, train, memory_bytes=memory_bytes, progress=progress))
    costs = refits.baseline()
    found = refits.after(every, fields=fields)
    solver, status = refits.solver
    how = "fitted again to convergence" if objective.head is not None else "trained again by the registered recipe"
    return Retraining(
        rows=np.array(wanted, dtype=np.int64),
        costs=costs,
        edits=every,
        changes=found.costs - costs,
        gradient_norms=found.gradient_norms,
        iterations=found.iterations,
        distance=refits.distance,
        recipe=refits.recipe(),
        diagnostics=EngineDiagnostics(
            estimand=f"measured change of the test row's {measurement} when the training rows are {_done(every)} and "
            f"the selected parameters are {how}",
            scale="removal",
            method="retrain",
            damping=0.0,
            damping_source="unused",
            leverage_correction=False,
            solver=solver,
            solver_status=status,
            residual=float(found.gradient_norms.max()),
            matvecs=refits.matvecs,
            stationarity=diagnosis.stationarity,
            dtype=str(objective.program.dtype).removeprefix("torch."),
            device=str(objective.program.device),
            seconds=time.perf_counter() - started,
            warnings=(*diagnosis.warnings, *refits.warnings),
        ),
    )


def choose_refits(
    objective: Objective,
    train: Rows,
    test: Rows,
    rows: Sequence[int],
    *,
    recipe: Recipe | None,
    start: Start | None,
    seeds: int,
    measurement: str,
    newton: Newton | None = None,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Refits:
    """Return what fits a model again: Newton's method where it is a linear head, else its recipe.

    Raises:
        InvalidArgument: INVALID_FIELD.
        FailedPrecondition: RECIPE_MISSING, RETRAIN_UNSUPPORTED, WEIGHTS_MISMATCH, TOO_MANY_PARAMETERS.
    """
    shared = {"measurement": measurement, "memory_bytes": memory_bytes, "progress": progress}
    if objective.head is not None:
        ignored = ()
        if start is not None or seeds != 1:
            ignored = ("start and seeds have no effect: a linear head is fitted to its one minimum from anywhere",)
        return NewtonRefits(objective, train, test, rows, newton=newton, notes=ignored, **shared)
    if recipe is None:
        text = (
            "this model's prediction is not linear in every selected parameter, so it is trained again by the recipe "
            "that it was trained by, and it has none: register it with training=undue.Training(…), or with the last "
            "layer alone, parameters=[…] (its report lists the names), which is fitted to its minimum"
        )
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)
    return RecipeRefits(objective, train, test, rows, recipe, start=start, seeds=seeds, **shared)


def _check_recipe_settings(tolerance: float | None, max_iterations: int | None) -> None:
    for name, value in (("tolerance", tolerance), ("max_iterations", max_iterations)):
        if value is not None:
            text = f"a model that is no linear head is trained for the epochs of its recipe: leave {name} out"
            raise InvalidArgument.at(name, text)


def _done(edits: Sequence[Edit]) -> str:
    """Return in a word what is done to training rows."""
    return "removed" if all(edit.removes_only for edit in edits) else "edited"


def _check_changes(k: int, m: int, memory_bytes: int) -> None:
    if 8 * k * m > memory_bytes:
        text = (
            f"the changes of {m:,} test rows under {k:,} counterfactuals take {8 * k * m / 2**30:.1f} GiB, more than "
            f"the {memory_bytes / 2**30:.1f} GiB allowed: pass fewer test rows, or fewer counterfactuals at a time"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)
