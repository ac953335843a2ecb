"""The call that finds out how little training rows must change for predictions to flip."""

from collections.abc import Iterable
from typing import cast

from undue import _perturbing
from undue._perturbing import Bound
from undue._resources import Dataset, Model

from .job_calls import AsyncJobCalls
from .perturbing import AsyncPerturbJob


class AsyncPerturbCalls(AsyncJobCalls):
    """The job of training perturbations."""

    async def perturb(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        test: Dataset | str,
        rows: Iterable[int] | Iterable[Iterable[int]] | None = None,
        candidates: int | None = None,
        candidate_rows: Iterable[int] | None = None,
        prefilter: int | None = None,
        input_name: str | None = None,
        step: float | None = None,
        momentum: float | None = None,
        iterations: int | None = None,
        bound: Bound = "same_8bit",
        radius: float | None = None,
        level: float | None = None,
        minimum: object = None,
        maximum: object = None,
        fixed: Iterable[int] = (),
        damping: float | None = None,
        control: bool = True,
        confirm: bool = True,
        seed: int = 0,
        timeout_seconds: float | None = None,
    ) -> AsyncPerturbJob:
        """Queue a job that says how little training rows must change for the model to say something else of test rows.

        An audit of susceptibility: each attack moves a few training rows along the gradient of influence, within a
        bound, and fits the model again after each step, until its test rows flip. A linear head is fitted to its
        minimum, any other model trained from the registered weights by the recipe that it was registered with.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on, whose rows are moved.
            test: the data set whose rows are attacked; without targets, what the model says of them is to flip.
            rows: rows of `test`: [1, 2, 3] is an attack on each, [[1, 2, 3], [4]] one on the mean of three, one on a
                fourth; None attacks each row.
            candidates: training rows that each attack moves; None is 1.
            candidate_rows: the training rows that every attack moves, instead of those that it chooses.
            prefilter: rank only so many rows exactly: those of the largest gradient in the features of a linear head;
                None is all.
            input_name: the input that is moved; None is the only one of floating-point numbers.
            step: how far a number moves in one iteration, within "l2" the whole row, in levels; None is 0.05.
            momentum: μ of the direction that steps follow, v ← μ v + I_pert / ‖I_pert‖₁; None is 0.95, 0 has none.
            iterations: of an attack at most; None is 100.
            bound: how far a row may move: "same_8bit", no number leaves its 8-bit level; "linf", no number moves by
                more than `radius`; "l2", the row moves by no more than that.
            radius: of "linf" and "l2", in levels.
            level: the size of one level in the input's unit; None is 1/255, that of pixels from 0 to 1.
            minimum: the smallest that a number may become, or that of each number of a row.
            maximum: the largest, likewise.
            fixed: places, in the flattened row, of numbers that stay: those that are categorical, for instance.
            damping: λ in H + λI, as in `influence`.
            control: attack once more with random signs, to tell what the direction does.
            confirm: count only flips that a linear head also makes when it is fitted from nothing.
            seed: of the random signs.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong, or the input is of integers (INPUT_NOT_DIFFERENTIABLE).
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model needs a recipe and has none
                (RECIPE_MISSING).
            Unavailable: the service cannot be reached.
        """
        spec = _perturbing.perturb(
            model,
            train=train,
            test=test,
            rows=rows,
            candidates=candidates,
            candidate_rows=candidate_rows,
            prefilter=prefilter,
            input_name=input_name,
            step=step,
            momentum=momentum,
            iterations=iterations,
            bound=bound,
            radius=radius,
            level=level,
            minimum=minimum,
            maximum=maximum,
            fixed=fixed,
            damping=damping,
            control=control,
            confirm=confirm,
            seed=seed,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncPerturbJob, await self._create(spec))
