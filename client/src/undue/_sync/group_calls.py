# Generated from _async/group_calls.py by tools/unasync.py: change that file, then run it with `generate`.
"""Calls that look beyond single rows and models: groups of training rows, and two models side by side."""

from collections.abc import Iterable
from typing import cast

from undue import _group_specs
from undue._fidelity import Start
from undue._group_specs import Reweight
from undue._inputs import Measurement, Normalization
from undue._resources import Dataset, Model

from .group_jobs import CompareJob, GroupInfluenceJob
from .job_calls import JobCalls


class GroupCalls(JobCalls):
    """Jobs of groups and of comparisons."""

    def group_influence(
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
    ) -> GroupInfluenceJob:
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
        return cast(GroupInfluenceJob, self._create(spec))

    def compare(
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
    ) -> CompareJob:
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
        return cast(CompareJob, self._create(spec))
