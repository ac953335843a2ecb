"""What a score is held to stand for: the retraining that it foretells."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from undue_service.domain.methods import works_over_checkpoints
from undue_service.domain.reports import Diagnostics
from undue_service.domain.specs import ModelSpec
from undue_service.engine.diagnostics import EngineDiagnostics
from undue_service.engine.methods import Checkpoint
from undue_service.engine.retraining.training import Recipe

from .opening import open_checkpoints, open_initial
from .place import Place

RECIPE = "the minimiser of the registered objective without the row, 1/n kept, reached from the registered weights"

DAMPED_RECIPE = (
    f"{RECIPE}, which λ/2 · ‖θ − θ̂‖² holds near them: with λ > 0 a score estimates that response (proximal Bregman), "
    "which is smaller than that of free retraining"
)


def completed(
    found: EngineDiagnostics, digests: Mapping[str, str], seed: int, warnings: Sequence[str] = ()
) -> Diagnostics:
    """Return the diagnostics of scores with what the engine does not know, and what else was found on the way."""
    found = replace(found, warnings=(*found.warnings, *warnings))
    return found.complete(recipe=DAMPED_RECIPE if found.damping > 0 else RECIPE, seed=seed, digests=digests)


def recipe_of(model: ModelSpec, place: Place) -> Recipe | None:
    """Return how a model is trained again; None where it was registered without."""
    if model.training is None:
        return None
    return Recipe(model.training, open_initial(model, place.artifacts, place.scratch))


def checkpoints_of(model: ModelSpec, method: str, ensemble: bool, place: Place) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that scores are taken at; none where a method does without."""
    if not works_over_checkpoints(method, ensemble):
        return ()
    return open_checkpoints(model, place.artifacts, place.scratch)
