"""Calls about the labels of training rows: how well wrong ones are found, and which ones look wrong."""

from collections.abc import Iterable, Mapping
from typing import cast

from undue import _mislabels
from undue._fidelity import Start
from undue._mislabels import RankingName
from undue._resources import Dataset, Model

from .job_calls import AsyncJobCalls
from .mislabel_jobs import AsyncMislabelsJob, AsyncSuspectsJob


class AsyncMislabelCalls(AsyncJobCalls):
    """Jobs of the data's quality."""

    async def mislabels(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        test: Dataset | str,
        flip: float | None = None,
        known: Mapping[int, int] | Iterable[int] | None = None,
        budgets: Iterable[float] | None = None,
        seeds: int = 10,
        seed: int = 0,
        rankings: Iterable[RankingName] | None = None,
        folds: int = 5,
        method: str | None = None,
        damping: float | None = None,
        leverage_correction: bool | None = None,
        start: Start | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncMislabelsJob:
        """Queue a job that says how well rankings find mislabelled training rows, and what correcting these is worth.

        In each repetition the labels of random rows are changed and the model is fitted to them: a linear head to its
        minimum, any other model by the recipe that it was registered with. Each ranking then says which rows to look at
        first. Of as many as the budget allows the wrong ones are put right, and the model is fitted again.

        Args:
            model: the model, or its name; without a version, the newest. A classification.
            train: the data set that it was trained on, whose labels are taken for right unless `known` says otherwise.
            test: the data set on which accuracy is measured.
            flip: share of the training rows whose labels are changed, up to a half; None is 0.1.
            known: training rows that are known to be wrong, instead of flips: {row: its right label}, or rows alone,
                which are left out once they are found.
            budgets: shares of the training rows that are looked at, ascending; None is 0.05, 0.1, … 0.3.
            seeds: repetitions, each with its own flips, folds and random order.
            seed: of the first repetition; the others follow it.
            rankings: None is all of "self_influence", "loss", "margin", "confident_learning" and "random".
            folds: of the cross-validation behind "confident_learning".
            method: whose scores "self_influence" ranks by, as in `self_influence`.
            damping: λ of "self_influence".
            leverage_correction: of "self_influence", as in `self_influence`.
            start: where training by the recipe begins, as in `retrain`.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong, or the model is a regression.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model needs a recipe and has none
                (RECIPE_MISSING).
            Unavailable: the service cannot be reached.
        """
        spec = _mislabels.mislabels(
            model,
            train=train,
            test=test,
            flip=flip,
            known=known,
            budgets=budgets,
            seeds=seeds,
            seed=seed,
            rankings=rankings,
            folds=folds,
            method=method,
            damping=damping,
            leverage_correction=leverage_correction,
            start=start,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncMislabelsJob, await self._create(spec))

    async def suspects(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        top_k: int = 100,
        seed: int = 0,
        rankings: Iterable[RankingName] | None = None,
        folds: int = 5,
        method: str | None = None,
        damping: float | None = None,
        leverage_correction: bool | None = None,
        start: Start | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncSuspectsJob:
        """Queue a job that lists the training rows whose labels look wrong, by several rankings.

        The data is taken as it is and the model at its registered weights; only "confident_learning" fits the model
        again, without each fold.

        Args:
            model: the model, or its name; without a version, the newest. A classification.
            train: the data set that it was trained on.
            top_k: how many rows each ranking lists.
            seed: of folds, of the random order, and of whatever the method draws.
            rankings: None is all of those of `mislabels` but "random".
            folds: as in `mislabels`.
            method: as in `mislabels`.
            damping: as in `mislabels`.
            leverage_correction: as in `mislabels`.
            start: as in `mislabels`.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong, or the model is a regression.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or "confident_learning" needs a recipe that the model
                has not (RECIPE_MISSING).
            Unavailable: the service cannot be reached.
        """
        spec = _mislabels.suspects(
            model,
            train=train,
            top_k=top_k,
            seed=seed,
            rankings=rankings,
            folds=folds,
            method=method,
            damping=damping,
            leverage_correction=leverage_correction,
            start=start,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncSuspectsJob, await self._create(spec))
