"""Calls that measure by retraining: what edits of training rows change, and how well scores foretell it."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from undue import _specs
from undue._edits import Edit
from undue._fidelity import FidelityKind, Start
from undue._inputs import Measurement, Normalization
from undue._resources import Dataset, Model

from .job_calls import AsyncJobCalls
from .kinds import AsyncFidelityJob, AsyncRetrainJob


class AsyncRetrainingCalls(AsyncJobCalls):
    """Jobs of retraining."""

    async def retrain(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        test: Dataset | str,
        rows: Iterable[int] | None = None,
        without: Iterable[Iterable[int]] | None = None,
        replace: Mapping[int, Any] | None = None,
        relabel: Mapping[int, Any] | None = None,
        reweight: Mapping[int, float] | None = None,
        counterfactuals: Iterable[Edit] = (),
        measurement: Measurement = "loss",
        tolerance: float | None = None,
        max_iterations: int | None = None,
        start: Start | None = None,
        seeds: int = 1,
        timeout_seconds: float | None = None,
    ) -> AsyncRetrainJob:
        """Queue a job that measures what changes when training rows are removed or edited, by fitting the model again.

        Of a linear head the objective of each counterfactual, 1/n kept, is minimised; the changes are from the minimum
        on all rows. Any other model is trained by the recipe that it was registered with, once on all rows and once for
        each counterfactual. A change is positive where the edit raises a cost. At least one counterfactual is needed;
        they come in the order without, replace with relabel and reweight, counterfactuals.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on.
            test: the data set on whose rows the change is measured.
            rows: rows of `test`; None means all.
            without: sets of rows of `train`: [[3], [5, 8]] fits once without row 3 and once without rows 5 and 8.
            replace: training row to its new input, an array without an axis of rows or {input name: array}, as the
                model sees it. With `relabel` and `reweight` it is one counterfactual together.
            relabel: training row to its new target; a row that is only replaced keeps its own.
            reweight: training row to its new weight, in place of the registered one, which is 1 where there are none.
            counterfactuals: further ones, `undue.Edit(without=…, replace=…, relabel=…, reweight=…)` each.
            measurement: which cost, as in `influence`.
            tolerance: norm of the objective's gradient at which a fit of a linear head has converged; None is 1e-10.
            max_iterations: Newton steps of one fit of a linear head at most; None is 100. What needs more is an error,
                SOLVER_NOT_CONVERGED.
            start: where training by the recipe begins: "warm", at the registered weights, or "cold", at the recipe's
                initial ones; None: cold where it has some.
            seeds: trainings by the recipe of each set, over which costs are averaged.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY.
            Unavailable: the service cannot be reached.
        """
        spec = _specs.retrain(
            model,
            train=train,
            test=test,
            rows=rows,
            without=without,
            replace=replace,
            relabel=relabel,
            reweight=reweight,
            counterfactuals=counterfactuals,
            measurement=measurement,
            tolerance=tolerance,
            max_iterations=max_iterations,
            start=start,
            seeds=seeds,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncRetrainJob, await self._create(spec))

    async def fidelity(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        test: Dataset | str,
        kind: FidelityKind = "loo",
        rows: Iterable[int] | None = None,
        method: str | None = None,
        samples: int = 50,
        strata: int = 5,
        share: float = 0.5,
        seeds: int = 1,
        start: Start | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
        measurement: Measurement = "loss",
        damping: float | None = None,
        leverage_correction: bool | None = None,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        parameters: Iterable[str] | None = None,
        rank: int | None = None,
        normalization: Normalization | None = None,
        ensemble: bool = False,
        timeout_seconds: float | None = None,
    ) -> AsyncFidelityJob:
        """Queue a job that says how well a method's scores foretell what retraining does.

        "loo" removes single training rows, drawn at random and from strata of the score's size, and compares the change
        of each test row's cost with the score. "lds", the linear datamodelling score, trains on random subsets and
        compares costs with sums of scores. What is retrained are the parameters that the model registered: a linear
        head is fitted to its minimum, any other model trained by the recipe that it was registered with.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on.
            test: the data set for whose rows training rows are scored.
            kind: "loo" or "lds".
            rows: rows of `test`; None means all.
            method: whose scores; None is the method that suits the model.
            samples: rows drawn at random, and as many again over the strata ("loo"); subsets ("lds").
            strata: quantiles of the score's size of which equally many rows are drawn ("loo").
            share: which part of the training rows a subset has ("lds").
            seeds: trainings by the recipe of each, over which costs are averaged.
            start: where training by the recipe begins, as in `retrain`.
            bootstrap: resamples behind each interval.
            seed: of the rows or subsets that are drawn, and of whatever the method draws at random.
            measurement: which cost, as in `influence`.
            damping: as in `influence`.
            leverage_correction: as in `influence`.
            tolerance: as in `influence`.
            max_iterations: as in `influence`.
            parameters: fnmatch patterns of the parameters that the scores run over; None means those that the model
                registered.
            rank: what the method truncates to; None is its own.
            normalization: of `relatif`: "theta" or "loss".
            ensemble: whether scores are averaged over the model's checkpoints.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model needs a recipe and has none
                (RECIPE_MISSING).
            Unavailable: the service cannot be reached.
        """
        spec = _specs.fidelity(
            model,
            train=train,
            test=test,
            kind=kind,
            rows=rows,
            method=method,
            samples=samples,
            strata=strata,
            share=share,
            seeds=seeds,
            start=start,
            bootstrap=bootstrap,
            seed=seed,
            measurement=measurement,
            damping=damping,
            leverage_correction=leverage_correction,
            tolerance=tolerance,
            max_iterations=max_iterations,
            parameters=parameters,
            rank=rank,
            normalization=normalization,
            ensemble=ensemble,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncFidelityJob, await self._create(spec))
