"""The client: where everything starts."""

import os
import uuid
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, cast

from undue import _convert, _convert_jobs, _group_specs, _mislabels, _perturbing, _specs
from undue._embedded import EmbeddedService
from undue._explain_results import ExplainResult
from undue._fidelity import FidelityKind, FidelitySettings, Start
from undue._group_specs import Reweight
from undue._grpc_aio import in_thread
from undue._indexes import Alias, Index
from undue._inputs import Aggregate, Measurement, Normalization
from undue._mislabels import RankingName
from undue._perturbing import Bound
from undue._resources import Dataset, Estimate, Model, ServerInfo
from undue.v1 import jobs_pb2, server_info_pb2

from .connection import AsyncConnection
from .explaining import explain
from .group_jobs import AsyncCompareJob, AsyncGroupInfluenceJob
from .indexes import AsyncIndexes
from .kinds import (
    AnyAsyncJob,
    AsyncFidelityJob,
    AsyncInfluenceJob,
    AsyncJobs,
    AsyncLeverageJob,
    AsyncRetrainJob,
    AsyncSelfInfluenceJob,
    job_of,
)
from .mislabel_jobs import AsyncMislabelsJob, AsyncSuspectsJob
from .perturbing import AsyncPerturbJob
from .registries import AsyncDatasets, AsyncModels


class AsyncClient:
    """A connection to a service; close it, or use it as a context manager.

    Calls that meet an unavailable service are made again for a few seconds, watches for about a minute; a request that
    was sent twice counts once. A blocking client may be shared by threads, an asyncio client by the tasks of its event
    loop. None survives a fork: make one in each process.

    Args:
        address: "host:port" or "unix:/path".

    Attributes:
        models: register, get and list models.
        datasets: register, get and list data sets.
        indexes: build, change, get and list indexes.
        jobs: get and list jobs.

    Raises:
        InvalidArgument: the address is empty.
    """

    def __init__(self, address: str) -> None:
        self._connection = AsyncConnection(address)
        self.models = AsyncModels(self._connection)
        self.datasets = AsyncDatasets(self._connection)
        self.indexes = AsyncIndexes(self._connection)
        self.jobs = AsyncJobs(self._connection)
        self._service: EmbeddedService | None = None

    @classmethod
    async def local(cls, data_dir: str | os.PathLike[str] | None = None) -> Self:
        """Start an embedded service and return its client. The service ends with `close`, or with this process.

        Args:
            data_dir: folder that keeps its state, held by one service at a time; None is a temporary folder that goes
                with the service.

        Raises:
            FailedPrecondition: `undue-service` is not installed, or another service holds the folder (DATA_DIR_LOCKED).
            InvalidArgument: the folder cannot be made.
            Internal: the service could not start; the message has the end of its log.
            Unavailable: the service did not start in time.
        """
        service = await in_thread(EmbeddedService, data_dir)
        client = cls(service.address)
        client._service = service
        return client

    @property
    def address(self) -> str:
        """Where the service listens; another process of this user may connect to an embedded one there."""
        return self._connection.address

    async def influence(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        test: Dataset | str,
        rows: Iterable[int] | None = None,
        method: str | None = None,
        measurement: Measurement = "loss",
        damping: float | None = None,
        top_k: int | None = 10,
        leverage_correction: bool | None = None,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        aggregate: Aggregate | None = None,
        parameters: Iterable[str] | None = None,
        rank: int | None = None,
        normalization: Normalization | None = None,
        ensemble: bool = False,
        seed: int = 0,
        fidelity: FidelitySettings | bool = False,
        timeout_seconds: float | None = None,
    ) -> AsyncInfluenceJob:
        """Queue a job that scores training rows for test rows.

        Positive means that removing the training row raises the test row's cost: it is helpful.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on.
            test: the data set whose predictions are explained.
            rows: rows of `test`; None means all.
            method: name of the method, as `server_info` lists it; None is `exact` for a linear head of up to 12,000
                parameters, else `gauss_newton`.
            measurement: which cost: "loss", the test row's loss without the L2 term; "logit", minus the explained
                class's logit; "margin", minus its logit over the log-sum-exp of the others. The last two are for
                classification.
            damping: λ in H + λI. None: 0 where the objective is convex with L2 on every selected parameter, else 0.1 ×
                the mean eigenvalue.
            top_k: how many helpful and how many harmful rows to keep; None keeps the whole score matrix.
            leverage_correction: correct for the leverage of each training row; None does it where the method can and
                the model is a linear head.
            tolerance: relative residual at which an iterative solver stops; None is 1e-8 for `cg`, 1e-3 for `lissa`.
            max_iterations: iterations of one solve at most; None is 1,000 for `cg`, 50,000 for `lissa`. What needs more
                is an error, SOLVER_NOT_CONVERGED.
            aggregate: "mean" explains the mean of the rows' costs, which makes one explanation of all rows; None
                explains each row by itself.
            parameters: fnmatch patterns of the parameters that the scores run over; None means those that the model
                registered.
            rank: what the method truncates to (`ekfac`, `gauss_newton`, `arnoldi`, `trak`); None is its own.
            normalization: of `relatif`: "theta" or "loss"; None is "theta".
            ensemble: average the scores over the model's checkpoints.
            seed: of whatever the method draws at random.
            fidelity: hold the scores against retraining, too, and say in `result.diagnostics.fidelity` how well they
                foretell it; `undue.FidelitySettings` says how, True by its defaults. See `fidelity`.
            timeout_seconds: how long it may run; None for as long as it takes. Past it the job fails, JOB_DEADLINE.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY.
            Unavailable: the service cannot be reached.
        """
        spec = _specs.influence(
            model,
            train=train,
            test=test,
            rows=rows,
            method=method,
            measurement=measurement,
            damping=damping,
            top_k=top_k,
            leverage_correction=leverage_correction,
            tolerance=tolerance,
            max_iterations=max_iterations,
            aggregate=aggregate,
            fidelity=fidelity,
            parameters=parameters,
            rank=rank,
            normalization=normalization,
            ensemble=ensemble,
            seed=seed,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncInfluenceJob, await self._create(spec))

    async def self_influence(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        method: str | None = None,
        damping: float | None = None,
        top_k: int | None = None,
        leverage_correction: bool | None = None,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        parameters: Iterable[str] | None = None,
        rank: int | None = None,
        normalization: Normalization | None = None,
        ensemble: bool = False,
        seed: int = 0,
        timeout_seconds: float | None = None,
    ) -> AsyncSelfInfluenceJob:
        """Queue a job that ranks training rows by their influence on their own loss; mislabelled rows come first.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on.
            method: name of the method, as `server_info` lists it; None is `exact` for a linear head of up to 12,000
                parameters, else `gauss_newton`.
            damping: λ in H + λI, as in `influence`.
            top_k: how many rows to keep; None keeps all.
            leverage_correction: as in `influence`.
            tolerance: as in `influence`.
            max_iterations: as in `influence`.
            parameters: as in `influence`.
            rank: as in `influence`.
            normalization: as in `influence`.
            ensemble: as in `influence`.
            seed: as in `influence`.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY.
            Unavailable: the service cannot be reached.
        """
        spec = _specs.self_influence(
            model,
            train=train,
            method=method,
            damping=damping,
            top_k=top_k,
            leverage_correction=leverage_correction,
            tolerance=tolerance,
            max_iterations=max_iterations,
            parameters=parameters,
            rank=rank,
            normalization=normalization,
            ensemble=ensemble,
            seed=seed,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncSelfInfluenceJob, await self._create(spec))

    async def retrain(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        test: Dataset | str,
        rows: Iterable[int] | None = None,
        without: Iterable[Iterable[int]],
        measurement: Measurement = "loss",
        tolerance: float | None = None,
        max_iterations: int | None = None,
        start: Start | None = None,
        seeds: int = 1,
        timeout_seconds: float | None = None,
    ) -> AsyncRetrainJob:
        """Queue a job that measures what changes when training rows are removed, by fitting the model without them.

        Of a linear head the objective without the rows, 1/n kept, is minimised for each set; the changes are from the
        minimum on all rows. Any other model is trained by the recipe that it was registered with, once on all rows and
        once without each set. A change is positive where removal raises a cost.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on.
            test: the data set on whose rows the change is measured.
            rows: rows of `test`; None means all.
            without: sets of rows of `train`: [[3], [5, 8]] fits once without row 3 and once without rows 5 and 8.
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

    async def leverage(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        damping: float | None = None,
        dfbeta: bool = False,
        timeout_seconds: float | None = None,
    ) -> AsyncLeverageJob:
        """Queue a job that computes leverage, Cook's distance and DFBETA of training rows, in closed form.

        Args:
            model: the model, or its name; its selected parameters are a linear head.
            train: the data set that it was trained on.
            damping: λ in H + λI; None adds none.
            dfbeta: keep by how much each coefficient exceeds what it is without each row, too.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model is no linear head (LEVERAGE_UNAVAILABLE).
            Unavailable: the service cannot be reached.
        """
        spec = _specs.leverage(model, train=train, damping=damping, dfbeta=dfbeta, timeout_seconds=timeout_seconds)
        return cast(AsyncLeverageJob, await self._create(spec))

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

    async def group_influence(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        test: Dataset | str,
        rows: Iterable[int],
        by: str | Iterable[str],
        reweight: Reweight = 3,
        method: str | None = None,
        measurement: Measurement = "loss",
        damping: float | None = None,
        top_k: int = 10,
        leverage_correction: bool | None = None,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        parameters: Iterable[str] | None = None,
        rank: int | None = None,
        normalization: Normalization | None = None,
        ensemble: bool = False,
        bootstrap: int = 1000,
        start: Start | None = None,
        seeds: int = 1,
        seed: int = 0,
        timeout_seconds: float | None = None,
    ) -> AsyncGroupInfluenceJob:
        """Queue a job that says which groups of training rows moved some predictions, and what reweighting them does.

        The scores of all training rows for the mean cost of the test rows are summed over the groups of each column;
        `excess` says by how much more than its share of the rows a group counts. Then groups get other weights, the
        model is retrained, and the change of the mean cost and of the accuracy is measured, on the test rows and on
        all others, beside what the scores foretold.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on, registered with groups=.
            test: the data set whose predictions are explained.
            rows: the rows of `test` whose predictions are wrong or surprising.
            by: a column of groups of `train`, or several.
            reweight: group to the factor of its weights, or to several ({"site-3": [0, 0.5]}; 0 removes the group);
                with several columns, (column, group) to them. A number: that many groups with the most excess, each
                without and with twice its weight. None: nothing is retrained.
            method: as in `influence`.
            measurement: as in `influence`.
            damping: as in `influence`.
            top_k: how many helpful and how many harmful rows to keep, and rows of each leading group.
            leverage_correction: as in `influence`.
            tolerance: as in `influence`.
            max_iterations: as in `influence`.
            parameters: as in `influence`.
            rank: as in `influence`.
            normalization: as in `influence`.
            ensemble: as in `influence`.
            bootstrap: resamples of a group's rows behind each interval.
            start: where training by the recipe begins, as in `retrain`.
            seeds: trainings by the recipe of each, over which costs are averaged.
            seed: of the resamples, and of whatever the method draws at random.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong; COLUMN_NOT_FOUND for a column that `train` has not.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model is no linear head and has no recipe to be
                retrained by (RECIPE_MISSING): register it with one, or pass reweight=None.
            Unavailable: the service cannot be reached.
        """
        spec = _group_specs.group_influence(
            model,
            train=train,
            test=test,
            rows=rows,
            by=by,
            reweight=reweight,
            method=method,
            measurement=measurement,
            damping=damping,
            top_k=top_k,
            leverage_correction=leverage_correction,
            tolerance=tolerance,
            max_iterations=max_iterations,
            parameters=parameters,
            rank=rank,
            normalization=normalization,
            ensemble=ensemble,
            bootstrap=bootstrap,
            start=start,
            seeds=seeds,
            seed=seed,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncGroupInfluenceJob, await self._create(spec))

    async def compare(
        self,
        model: Model | str,
        other: Model | str | None = None,
        *,
        train: Dataset | str,
        test: Dataset | str,
        rows: Iterable[int] | None = None,
        method: str | None = None,
        other_method: str | None = None,
        measurement: Measurement = "loss",
        damping: float | None = None,
        top_k: int = 10,
        leverage_correction: bool | None = None,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        parameters: Iterable[str] | None = None,
        rank: int | None = None,
        normalization: Normalization | None = None,
        ensemble: bool = False,
        ablation: bool = True,
        distance: bool | str | Iterable[str] = True,
        scatter: int = 1000,
        seed: int = 0,
        timeout_seconds: float | None = None,
    ) -> AsyncCompareJob:
        """Queue a job that holds what one model, or two, say of the same test rows against each other.

        For each test row: what each model says and which training rows matter most to it, how far the two rankings
        agree, whether scores go with being near in the space of the inputs, and what is left of a ranking without the
        curvature and without the training rows' losses.

        Args:
            model: the model, or its name; without a version, the newest.
            other: another model on the same data sets; None asks the one alone.
            train: the data set that both were trained on.
            test: the data set whose predictions are explained.
            rows: rows of `test`; None means all.
            method: as in `influence`; None is for each model the one that suits it.
            other_method: of the other model; None is `method`.
            measurement: as in `influence`.
            damping: as in `influence`, of both models, as all settings of the method are.
            top_k: how many helpful and how many harmful rows to keep of each model.
            leverage_correction: as in `influence`.
            tolerance: as in `influence`.
            max_iterations: as in `influence`.
            parameters: of `model`, as in `influence`.
            rank: as in `influence`.
            normalization: as in `influence`.
            ensemble: as in `influence`.
            ablation: hold scores against those without parts of influence.
            distance: hold scores against distances; names of the inputs that those are over, True for all that the
                models take as numbers.
            scatter: training rows, drawn at random, whose scores and distances are kept beside those that are listed.
            seed: of the rows that are drawn, and of whatever the method draws at random.
            timeout_seconds: as in `influence`.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY.
            Unavailable: the service cannot be reached.
        """
        spec = _group_specs.compare(
            model,
            other,
            train=train,
            test=test,
            rows=rows,
            method=method,
            other_method=other_method,
            measurement=measurement,
            damping=damping,
            top_k=top_k,
            leverage_correction=leverage_correction,
            tolerance=tolerance,
            max_iterations=max_iterations,
            parameters=parameters,
            rank=rank,
            normalization=normalization,
            ensemble=ensemble,
            ablation=ablation,
            distance=distance,
            scatter=scatter,
            seed=seed,
            timeout_seconds=timeout_seconds,
        )
        return cast(AsyncCompareJob, await self._create(spec))

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

    async def explain(
        self,
        index: Index | Alias | str,
        inputs: object,
        targets: object = None,
        *,
        measurement: Measurement = "loss",
        top_k: int = 10,
        exact: bool = False,
        with_instances: bool = True,
        timeout: float | None = None,
    ) -> ExplainResult:
        """Say which training rows made the model say what it says of some rows, from an index that is held in memory.

        Positive means that removing the training row raises the row's cost: it is helpful. Rows beyond 256, or 4 MiB,
        are asked about in several calls, of the same index; the first call after a while waits until it is read.

        Args:
            index: an index, an alias, or a name of either; a bare word is an alias.
            inputs: one array, or a dict of input name to array; rows first: `x[None]` for a single one.
            targets: labels or numbers, one a row; None explains the predicted label, or a regression's prediction
                itself.
            measurement: which cost, as in `influence`.
            top_k: how many helpful and how many harmful rows to list, 1,000 at most.
            exact: guarantee the lists, by scanning every row that could be in them.
            with_instances: let the listed rows come with the answer; else `.example` reads each on demand.
            timeout: seconds that all calls may take together; None is a minute for each.

        Returns:
            One explanation for each row, as a sequence; `.recall` says how complete the lists are.

        Raises:
            InvalidArgument: an argument is wrong, or the rows do not fit the model.
            NotFound: there is no such index or alias.
            FailedPrecondition: the index is not READY, or not of this model and data any more (INDEX_STALE,
                DATASET_CHANGED), or damaged (INDEX_DAMAGED).
            QuotaExceeded: too many callers wait (TOO_MANY_REQUESTS), or the index does not fit the memory.
            DeadlineExceeded: no answer came within the timeout.
            Unavailable: the service cannot be reached.
        """
        return await explain(
            self._connection, index, inputs, targets, measurement, top_k, exact, with_instances, timeout
        )

    async def estimate(
        self, model: Model | str, *, train: Dataset | str, test: Dataset | str | None = None, **arguments: Any
    ) -> Estimate:
        """Say what a job would take, without queueing it: the request is checked as if it were.

        Args:
            model: the model, or its name; registered with a sample, on which its speed was measured.
            train: the data set that it was trained on.
            test: as in `influence`; None is for `self_influence`, `leverage` and `suspects`.
            **arguments: the other arguments of `influence`; with `without`, those of `retrain`; with `kind`, those of
                `fidelity`; with `rankings`, those of `mislabels`; with `by`, those of `group_influence`; with `other`,
                those of `compare`; with `candidates`, or any other that it alone has, those of `perturb`; without
                `test`, those of `self_influence` or, with `dfbeta`, of `leverage`, or, with `rankings`, of `suspects`.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model was registered without a sample.
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.CreateJobRequest(job=_specs.any_job(model, train, test, arguments), validate_only=True)
        return _convert_jobs.estimate((await self._connection.call(self._connection.jobs.CreateJob, request)).estimate)

    async def server_info(self) -> ServerInfo:
        """Return versions, methods, limits and devices of the service.

        Raises:
            Unavailable: the service cannot be reached.
        """
        request = server_info_pb2.GetServerInfoRequest()
        return _convert.server_info(await self._connection.call(self._connection.server.GetServerInfo, request))

    async def close(self) -> None:
        """Close the connection, and stop an embedded service. Twice does nothing more."""
        await self._connection.close()
        if self._service is not None:
            await in_thread(self._service.stop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"

    async def _create(self, job: jobs_pb2.Job) -> AnyAsyncJob:
        request = jobs_pb2.CreateJobRequest(job=job, request_id=str(uuid.uuid4()))
        created = await self._connection.call(self._connection.jobs.CreateJob, request)
        return job_of(self._connection, created)
