"""What callers ask for, as messages: one function a kind of job or index, which checks its arguments. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from . import _convert_jobs, _convert_retraining, _group_specs, _perturbing
from ._edits import Edit, edit_message
from ._errors import invalid
from ._fidelity import FidelityKind, FidelitySettings, Start
from ._inputs import (
    Aggregate,
    Measurement,
    Normalization,
    flag,
    flag_or_none,
    name_or_none,
    non_negative,
    positive,
    relative,
    resource_name,
    row_count,
    row_numbers,
    row_sets,
    seed_number,
    strings,
)
from ._mislabels import mislabels, suspects
from ._resources import Dataset, Model
from .v1 import indexes_pb2, jobs_pb2


def influence(
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
) -> jobs_pb2.Job:
    """Return an influence job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    spec = jobs_pb2.InfluenceSpec(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        test=resource_name("test", "datasets", test),
        rows=None if rows is None else row_numbers("rows", rows),
        method=name_or_none("method", method),
        measurement=_convert_jobs.measurement("measurement", measurement),
        damping=None if damping is None else non_negative("damping", damping),
        top_k=row_count("top_k", top_k),
        leverage_correction=flag_or_none("leverage_correction", leverage_correction),
        tolerance=None if tolerance is None else relative("tolerance", tolerance),
        max_iterations=None if max_iterations is None else positive("max_iterations", max_iterations),
        aggregate=None if aggregate is None else _convert_jobs.aggregate("aggregate", aggregate),
        fidelity=_fidelity_settings(fidelity),
        **_scoring(parameters, rank, normalization, ensemble, seed),
    )
    return jobs_pb2.Job(influence=spec, timeout_seconds=_timeout(timeout_seconds))


def self_influence(
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
) -> jobs_pb2.Job:
    """Return a self-influence job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    spec = jobs_pb2.SelfInfluenceSpec(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        method=name_or_none("method", method),
        damping=None if damping is None else non_negative("damping", damping),
        top_k=row_count("top_k", top_k),
        leverage_correction=flag_or_none("leverage_correction", leverage_correction),
        tolerance=None if tolerance is None else relative("tolerance", tolerance),
        max_iterations=None if max_iterations is None else positive("max_iterations", max_iterations),
        **_scoring(parameters, rank, normalization, ensemble, seed),
    )
    return jobs_pb2.Job(self_influence=spec, timeout_seconds=_timeout(timeout_seconds))


def retrain(
    model: Model | str,
    *,
    train: Dataset | str,
    test: Dataset | str,
    without: Iterable[Iterable[int]] | None = None,
    replace: Mapping[int, Any] | None = None,
    relabel: Mapping[int, Any] | None = None,
    reweight: Mapping[int, float] | None = None,
    counterfactuals: Iterable[Edit] = (),
    rows: Iterable[int] | None = None,
    measurement: Measurement = "loss",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    start: Start | None = None,
    seeds: int = 1,
    timeout_seconds: float | None = None,
) -> jobs_pb2.Job:
    """Return a retrain job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    if isinstance(counterfactuals, Edit) or not isinstance(counterfactuals, Iterable):
        raise invalid("counterfactuals", f"{counterfactuals!r} is not a list: write [undue.Edit(…), …]")
    edits = list(counterfactuals)
    for name, changed in (("replace", replace), ("relabel", relabel), ("reweight", reweight)):
        if changed is not None and not isinstance(changed, Mapping):
            raise invalid(name, "must map a row to what is different about it: {3: …}")
    if replace or relabel or reweight:
        edits.insert(0, Edit((), replace or {}, relabel or {}, reweight or {}))
    sets = [] if without is None and edits else row_sets("without", () if without is None else without)
    spec = jobs_pb2.RetrainSpec(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        test=resource_name("test", "datasets", test),
        rows=None if rows is None else row_numbers("rows", rows),
        without=[jobs_pb2.RowSet(rows=each) for each in sets],
        counterfactuals=[edit_message(f"counterfactuals[{place}]", each) for place, each in enumerate(edits)],
        measurement=_convert_jobs.measurement("measurement", measurement),
        tolerance=None if tolerance is None else relative("tolerance", tolerance),
        max_iterations=None if max_iterations is None else positive("max_iterations", max_iterations),
        start=_convert_retraining.start("start", start),
        seeds=positive("seeds", seeds),
    )
    return jobs_pb2.Job(retrain=spec, timeout_seconds=_timeout(timeout_seconds))


def fidelity(
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
) -> jobs_pb2.Job:
    """Return a fidelity job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    settings = FidelitySettings(kind, samples, strata, share, seeds, start, bootstrap, seed)
    spec = jobs_pb2.FidelitySpec(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        test=resource_name("test", "datasets", test),
        rows=None if rows is None else row_numbers("rows", rows),
        method=name_or_none("method", method),
        measurement=_convert_jobs.measurement("measurement", measurement),
        damping=None if damping is None else non_negative("damping", damping),
        settings=_convert_retraining.fidelity_settings(settings),
        leverage_correction=flag_or_none("leverage_correction", leverage_correction),
        tolerance=None if tolerance is None else relative("tolerance", tolerance),
        max_iterations=None if max_iterations is None else positive("max_iterations", max_iterations),
        **_scoring(parameters, rank, normalization, ensemble, seed),
    )
    return jobs_pb2.Job(fidelity=spec, timeout_seconds=_timeout(timeout_seconds))


def leverage(
    model: Model | str,
    *,
    train: Dataset | str,
    damping: float | None = None,
    dfbeta: bool = False,
    timeout_seconds: float | None = None,
) -> jobs_pb2.Job:
    """Return a leverage job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    spec = jobs_pb2.LeverageSpec(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        damping=None if damping is None else non_negative("damping", damping),
        dfbeta=dfbeta,
    )
    return jobs_pb2.Job(leverage=spec, timeout_seconds=_timeout(timeout_seconds))


def index(
    model: Model | str,
    *,
    train: Dataset | str,
    method: str | None = None,
    damping: float | None = None,
    parameters: Iterable[str] | None = None,
    leverage_correction: bool | None = None,
    seed: int = 0,
) -> indexes_pb2.Index:
    """Return an index to build.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    return indexes_pb2.Index(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        method=name_or_none("method", method),
        damping=None if damping is None else non_negative("damping", damping),
        parameters=strings("parameters", parameters or ()),
        leverage_correction=flag_or_none("leverage_correction", leverage_correction),
        seed=seed_number("seed", seed),
    )


_MISLABELS = frozenset(("rankings", "flip", "known", "budgets"))
_RETRAIN = frozenset(("without", "replace", "relabel", "reweight", "counterfactuals"))


def any_job(
    model: Model | str, train: Dataset | str, test: Dataset | str | None, arguments: Mapping[str, Any]
) -> jobs_pb2.Job:
    """Return the job that these arguments are of.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    if test is None:
        untested = leverage if "dfbeta" in arguments else suspects if "rankings" in arguments else self_influence
        return untested(model, train=train, **arguments)
    if _perturbing.OWN & arguments.keys():
        return _perturbing.perturb(model, train=train, test=test, **arguments)
    if _MISLABELS & arguments.keys():
        return mislabels(model, train=train, test=test, **arguments)
    if "by" in arguments:
        return _group_specs.group_influence(model, train=train, test=test, **arguments)
    if "other" in arguments:
        return _group_specs.compare(model, train=train, test=test, **arguments)
    tested = retrain if _RETRAIN & arguments.keys() else fidelity if "kind" in arguments else influence
    return tested(model, train=train, test=test, **arguments)


def _fidelity_settings(asked: FidelitySettings | bool) -> jobs_pb2.FidelitySettings | None:
    if isinstance(asked, FidelitySettings):
        return _convert_retraining.fidelity_settings(asked)
    if not isinstance(asked, bool):
        raise invalid("fidelity", f"{asked!r} is neither undue.FidelitySettings(…) nor True or False")
    return _convert_retraining.fidelity_settings(FidelitySettings()) if asked else None


def _scoring(
    parameters: Iterable[str] | None,
    rank: int | None,
    normalization: Normalization | None,
    ensemble: bool,
    seed: int,
) -> dict[str, Any]:
    """Return the settings of a method that every job of scores has."""
    return {
        "parameters": strings("parameters", parameters or ()),
        "rank": None if rank is None else positive("rank", rank),
        "normalization": None if normalization is None else _convert_jobs.normalization("normalization", normalization),
        "ensemble": flag("ensemble", ensemble),
        "seed": seed_number("seed", seed),
    }


def _timeout(seconds: float | None) -> float:
    return 0.0 if seconds is None else non_negative("timeout_seconds", seconds)
