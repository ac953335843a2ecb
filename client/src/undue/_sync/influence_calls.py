# Generated from _async/influence_calls.py by tools/unasync.py: change that file, then run it with `generate`.
"""Calls that ask which training rows matter, to test rows or to the model itself."""

from collections.abc import Iterable
from typing import cast

from undue import _specs
from undue._fidelity import FidelitySettings
from undue._inputs import Aggregate, Measurement, Normalization
from undue._resources import Dataset, Model

from .job_calls import JobCalls
from .kinds import InfluenceJob, LeverageJob, SelfInfluenceJob


class InfluenceCalls(JobCalls):
    """Jobs of scores and of leverage."""

    def influence(
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
    ) -> InfluenceJob:
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
        return cast(InfluenceJob, self._create(spec))

    def self_influence(
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
    ) -> SelfInfluenceJob:
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
        return cast(SelfInfluenceJob, self._create(spec))

    def leverage(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        damping: float | None = None,
        dfbeta: bool = False,
        timeout_seconds: float | None = None,
    ) -> LeverageJob:
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
        return cast(LeverageJob, self._create(spec))
