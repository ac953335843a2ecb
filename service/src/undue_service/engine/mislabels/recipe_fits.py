"""Fits of any other model: each trained by the recipe that it was registered with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.engine.data import Rows
from undue_service.engine.gradients import block_rows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.retraining.copy_edits import CopyEdits
from undue_service.engine.retraining.edits import Edit
from undue_service.engine.retraining.initialisation import cold_start, has_cold_start
from undue_service.engine.retraining.recipe_retraining import Start, kept_rows, words
from undue_service.engine.retraining.training import Divisor, Recipe, train_in_step


class RecipeFits:
    """Trainings on edited rows, all from the same start and in the same order of rows."""

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        test: Rows | None,
        recipe: Recipe,
        *,
        start: Start | None = None,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind a model to its data, the test rows with labels; nothing is trained yet.

        Raises:
            FailedPrecondition: RECIPE_MISSING, RETRAIN_UNSUPPORTED, WEIGHTS_MISMATCH: there is no such start.
        """
        self._objective = objective
        self._train = train
        self._test = test
        self._recipe = recipe
        self._memory = memory_bytes
        self._progress = progress
        self._cold = has_cold_start(recipe) if start is None else start == "cold"
        self._start = cold_start(objective, recipe, recipe.spec.seed) if self._cold else objective.theta
        self.solver = (recipe.spec.optimizer, f"{recipe.spec.epochs} epochs")

    @property
    def starts_warm(self) -> bool:
        """Whether a training begins at the registered weights, which have seen the labels as they were."""
        return not self._cold

    def fit(self, edits: Sequence[Edit], *, near: Tensor | None = None, divisor: Divisor = "kept_n") -> Tensor:  # noqa: ARG002 - the seam's signature
        """See Fits. Where a training begins does not depend on `near`.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT.
        """
        return train_in_step(
            self._objective,
            self._train,
            self._recipe,
            kept_rows(edits, len(self._train)),
            start=self._start,
            seeds=[self._recipe.spec.seed] * len(edits),
            edits=CopyEdits.of(self._objective, edits),
            divisor=divisor,
            memory_bytes=self._memory // 2,
            progress=self._progress,
        )

    def outputs(self, theta: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """See Fits."""
        size = block_rows(self._objective, self._memory // 4)
        batches = self._train.batches(size, rows)
        return torch.cat([self._objective.outputs(theta, self._objective.place(raw).inputs) for raw in batches])

    def accuracies(self, thetas: Tensor) -> Tensor:
        """See Fits."""
        assert self._test is not None  # noqa: S101  whoever asks has given some
        right = torch.zeros(len(thetas), dtype=torch.float64)
        for raw in self._test.batches(block_rows(self._objective, self._memory // 4)):
            batch = self._objective.place(raw)
            for k, theta in enumerate(thetas):
                predicted = self._objective.loss.predictions(self._objective.outputs(theta, batch.inputs))
                right[k] += float((predicted == batch.targets).sum())
        return right / len(self._test)

    def recipe(self) -> str:
        """See Fits."""
        start = "the registered weights"
        if self._cold:
            start = "the recipe's initial weights" if self._recipe.init is not None else "weights drawn as torch draws"
        return f"trained from {start} by {words(self._recipe.spec)}, seed {self._recipe.spec.seed}"
