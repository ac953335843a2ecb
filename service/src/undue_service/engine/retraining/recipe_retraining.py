"""Retraining of any model by the recipe that it was trained by, from the same start with the same seeds each time."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import TrainingSpec
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows
from undue_service.engine.measurements import measure
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .copy_edits import CopyEdits
from .edits import Edit
from .initialisation import cold_start, has_cold_start
from .refits import Refitted, check_costs, fields_of
from .training import Divisor, Recipe, gradient_norms, train_in_step

Start = Literal["warm", "cold"]

_OBJECTIVES = {
    "kept_n": "the removed rows' losses are masked, edited rows take their places, and batches keep their divisor "
    "(1/n fixed)",
    "subset": "each subset S is shuffled by itself, in batches divided by the rows they hold (1/|S|)",
}


class RecipeRefits:
    """Trainings under edits of the rows, each beside one on all rows that differs in nothing else.

    A cost is the mean over `seeds` trainings: of the recipe's seed and those that follow it. A seed decides the order
    of the rows and, in a cold start by the initialiser "torch", the weights that training begins with.
    """

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        test: Rows,
        rows: Sequence[int],
        recipe: Recipe,
        *,
        start: Start | None = None,
        seeds: int = 1,
        measurement: str = "loss",
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind a model to its data; nothing is trained yet.

        Args:
            objective: at its registered weights.
            train: the n training rows.
            test: whose costs are measured.
            rows: numbers of the m test rows.
            recipe: how to train.
            start: None is "cold" where the recipe has an initialiser, else "warm".
            seeds: trainings of each set.
            measurement: the cost.
            memory_bytes: budget of held rows, of the copies, and of intermediate values.
            progress: told in copies.

        Raises:
            InvalidArgument: INVALID_FIELD for a number of seeds that is not positive.
            FailedPrecondition: RECIPE_MISSING, RETRAIN_UNSUPPORTED, WEIGHTS_MISMATCH: there is no such start.
        """
        if seeds < 1:
            raise InvalidArgument.at("seeds", f"is at least 1, not {seeds}")
        self._objective = objective
        self._train = train
        self._test = test
        self._rows = list(rows)
        self._recipe = recipe
        self._measurement = measurement
        self._memory = memory_bytes
        self._progress = progress
        self._cold = has_cold_start(recipe) if start is None else start == "cold"
        self.starts_warm = not self._cold
        self._seeds = [recipe.spec.seed + r for r in range(seeds)]
        self._starts = torch.stack([self._start(seed) for seed in self._seeds])
        self._baseline: NDArray[np.float64] | None = None
        self.distance = 0.0
        self.matvecs = 0
        self.wrong: NDArray[np.float32] | None = None

    def baseline(self) -> NDArray[np.float64]:
        """Return the costs (m,) of the trainings on all rows.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT.
        """
        if self._baseline is None:
            ends, kept, _ = self._trained([Edit()], "kept_n", self._progress)
            costs, wrong = self._measured(ends)
            self._baseline, self.wrong = costs[0], None if wrong is None else wrong[0]
            self.distance = float((ends[0] - self._objective.theta).norm(dim=1).mean())
            norms = gradient_norms(self._objective, self._train, ends[0], kept, memory_bytes=self._memory)
            self._norm = float(norms.max())
        return self._baseline

    def after(
        self, edits: Sequence[Edit], divisor: Divisor = "kept_n", fields: Sequence[str] | None = None
    ) -> Refitted:
        """Train under each edit.

        Raises:
            InvalidArgument: INVALID_FIELD where an edit leaves nothing.
            FailedPrecondition: NON_FINITE_RESULT.
        """
        n, spec = len(self._train), self._recipe.spec
        left = [n - len(set(edit.without)) for edit in edits]
        for edit, count, at in zip(edits, left, fields_of(edits, fields), strict=True):
            if count == 0:
                raise InvalidArgument.at(at, f"{edit} no row of the training data is left to train on")
        costs, norms = np.empty((len(edits), len(self._rows))), np.empty(len(edits))
        wrong: list[NDArray[np.float32]] = []
        size = self._at_once()
        for first in range(0, len(edits), size):
            some = edits[first : first + size]

            def told(stage: str, done: int, total: int, first: int = first, some: int = len(some)) -> None:
                self._progress(stage, first + done * some // total, len(edits))

            ends, kept, seen = self._trained(some, divisor, told)
            here = slice(first, first + len(some))
            costs[here], mistaken = self._measured(ends)
            wrong += [] if mistaken is None else [mistaken]
            found = gradient_norms(
                self._objective,
                self._train,
                ends.flatten(0, 1),
                kept,
                edits=seen,
                divisor=divisor,
                memory_bytes=self._memory,
            )
            norms[here] = found.view(len(some), -1).amax(dim=1).to("cpu", torch.float64).numpy()
        batch = spec.batch_size or n
        steps = [spec.epochs * -(-count // batch) for count in (left if divisor == "subset" else [n] * len(edits))]
        mistakes = np.concatenate(wrong) if wrong else None
        return Refitted(costs, norms, np.array(steps, dtype=np.int64), wrong=mistakes)

    def recipe(self, divisor: Divisor = "kept_n") -> str:
        """Return in words what was done."""
        spec = self._recipe.spec
        start = "the registered weights"
        if self._cold:
            start = "the recipe's initial weights" if self._recipe.init is not None else "weights drawn as torch draws"
        seeds = f"seed {self._seeds[0]}"
        if len(self._seeds) > 1:
            seeds = f"mean over the seeds {self._seeds[0]} to {self._seeds[-1]}"
        ends = ""
        if self._baseline is not None:
            ends = f"; on all rows it ends {self.distance:.2g} from the registered weights, at ‖∇R‖ = {self._norm:.2g}"
        return (
            f"trained from {start} by {words(spec)}, {seeds}, dropout off and normalisation statistics frozen; "
            f"{_OBJECTIVES[divisor]}{ends}"
        )

    @property
    def solver(self) -> tuple[str, str]:
        """Return what fits, and how it ended."""
        return self._recipe.spec.optimizer, f"{self._recipe.spec.epochs} epochs"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the reader should know."""
        spec = self._recipe.spec
        whole = spec.batch_size is None or spec.batch_size >= len(self._train)
        if len(self._seeds) > 1 and whole and not (self._cold and self._recipe.init is None):
            text = (
                f"the {len(self._seeds)} seeds change nothing: every step takes all rows and every training starts "
                "from the same weights"
            )
            return (text,)
        return ()

    def _start(self, seed: int) -> Tensor:
        return cold_start(self._objective, self._recipe, seed) if self._cold else self._objective.theta

    def _trained(self, edits: Sequence[Edit], divisor: Divisor, progress: Progress) -> tuple[Tensor, Tensor, CopyEdits]:
        """Return where trainings under each edit end, (K, seeds, P), and what each of K · seeds copies kept and saw."""
        seeds = len(self._seeds)
        kept = kept_rows(edits, len(self._train)).repeat_interleave(seeds, dim=0)
        seen = CopyEdits.of(self._objective, edits, repeats=seeds)
        ends = train_in_step(
            self._objective,
            self._train,
            self._recipe,
            kept,
            start=self._starts.repeat(len(edits), 1),
            seeds=self._seeds * len(edits),
            edits=seen,
            divisor=divisor,
            memory_bytes=self._memory // 2,
            progress=progress,
        )
        return ends.view(len(edits), seeds, -1), kept, seen

    def _at_once(self) -> int:
        """Return how many sets are trained before their costs are measured: their weights take a quarter."""
        one = len(self._seeds) * (len(self._train) + 2 * self._starts[0].numel() * self._starts.element_size())
        return max(1, self._memory // 4 // one)

    def _measured(self, ends: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """Return m_t and where predicted labels are wrong, (K, m), averaged over the seeds of θ (K, seeds, P)."""
        parts, wrong = [], []
        loss, seeds = self._objective.loss, ends.shape[1]
        for batch in self._tests():
            costs, mistaken = [], []
            for theta in ends.flatten(0, 1):
                f = self._objective.outputs(theta, batch.inputs)
                costs.append(measure(self._measurement, loss, f, batch.targets))
                mistaken += [loss.predictions(f) != batch.targets] if loss.explains_label else []
            found = torch.stack(costs).view(-1, seeds, len(batch.index)).mean(dim=1).T
            check_costs(found, batch.index, self._measurement)
            parts.append(found)
            if mistaken:
                wrong.append(torch.stack(mistaken).view(-1, seeds, len(batch.index)).float().mean(dim=1).T)
        shares = torch.cat(wrong).T.cpu().numpy() if wrong else None
        return torch.cat(parts).T.to("cpu", torch.float64).numpy(), shares

    def _tests(self) -> Iterator[Batch]:
        size = block_rows(self._objective, self._memory // 4)
        for raw in self._test.batches(size, self._rows):
            yield self._objective.explained(self._objective.place(raw))


def kept_rows(edits: Sequence[Edit], n: int) -> Tensor:
    """Return which rows each training keeps, (K, n) bool."""
    kept = torch.ones(len(edits), n, dtype=torch.bool)
    for k, edit in enumerate(edits):
        kept[k, torch.tensor(edit.without, dtype=torch.int64)] = False
    return kept


def words(spec: TrainingSpec) -> str:
    """Return the optimiser and how long it goes, in words."""
    how = f"Adam (lr {spec.lr:g}, β {spec.betas[0]:g} and {spec.betas[1]:g}, ε {spec.eps:g})"
    if spec.optimizer == "sgd":
        how = f"SGD (lr {spec.lr:g}, momentum {spec.momentum:g})"
    rate = f", {spec.schedule} schedule" if spec.schedule else ""
    batches = f"batches of {spec.batch_size}" if spec.batch_size else "steps over all rows"
    return f"{how}{rate}, {spec.epochs} epochs in {batches}"
