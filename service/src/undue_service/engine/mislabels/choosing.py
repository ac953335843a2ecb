"""Which fits a model has, and the model at another fit."""

from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.data import Rows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.retraining.recipe_retraining import Start
from undue_service.engine.retraining.training import Recipe

from .fits import Fits
from .head_fits import HeadFits
from .recipe_fits import RecipeFits


def choose_fits(
    objective: Objective,
    train: Rows,
    test: Rows | None,
    *,
    recipe: Recipe | None,
    start: Start | None,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Fits:
    """Return what fits a model: Newton's method where it is a linear head, else its recipe.

    Raises:
        FailedPrecondition: RECIPE_MISSING, RETRAIN_UNSUPPORTED, WEIGHTS_MISMATCH, TOO_MANY_PARAMETERS.
    """
    if objective.head is not None:
        return HeadFits(objective, train, test, memory_bytes=memory_bytes, progress=progress)
    if recipe is None:
        text = (
            "this model's prediction is not linear in every selected parameter, so it is trained on other labels by "
            "the recipe that it was trained by, and it has none: register it with training=undue.Training(…), or with "
            "the last layer alone, parameters=[…] (its report lists the names), which is fitted to its minimum"
        )
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)
    return RecipeFits(objective, train, test, recipe, start=start, memory_bytes=memory_bytes, progress=progress)


def moved(objective: Objective, theta: Tensor) -> Objective:
    """Return an objective at θ (P,), whatever precision either has."""
    program = objective.program
    own = objective.space.unflatten(theta.to(program.device, program.dtype))
    return objective.at({**program.constants, **program.parameters, **own})
