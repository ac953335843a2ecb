"""Jobs about groups of training rows and about two models, as messages. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from . import _convert_jobs, _convert_retraining
from ._errors import invalid
from ._fidelity import Start
from ._inputs import (
    Measurement,
    Normalization,
    count,
    flag,
    flag_or_none,
    name_or_none,
    non_negative,
    positive,
    relative,
    resource_name,
    row_numbers,
    seed_number,
    strings,
)
from ._resources import Dataset, Model
from .v1 import jobs_pb2

Reweight = Mapping[Any, float | Iterable[float]] | int | None
"""Group to factor or factors; (column, group) to them; or how many groups with the most excess, by 0 and 2."""


def group_influence(
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
) -> jobs_pb2.Job:
    """Return a group influence job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    columns = (by,) if isinstance(by, str) else strings("by", by)
    if not columns or not all(columns):
        raise invalid("by", "names no column of groups of the training data")
    named, top = _reweighted(reweight, columns)
    spec = jobs_pb2.GroupInfluenceSpec(
        rows=row_numbers("rows", rows, empty="is empty; name the test rows whose predictions are to be explained"),
        by=columns,
        reweight=named,
        reweight_top=top,
        bootstrap=positive("bootstrap", bootstrap),
        start=_convert_retraining.start("start", start),
        seeds=positive("seeds", seeds),
        **_asked(model, train, test, method, measurement, damping, top_k, leverage_correction),
        **_scoring(tolerance, max_iterations, parameters, rank, normalization, ensemble, seed),
    )
    return jobs_pb2.Job(group_influence=spec, timeout_seconds=_timeout(timeout_seconds))


def compare(
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
) -> jobs_pb2.Job:
    """Return a compare job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    if other is None and other_method is not None:
        raise invalid("other_method", "is that of another model: name one with other=")
    over: tuple[str, ...] = ()
    if not isinstance(distance, bool):
        over = (distance,) if isinstance(distance, str) else strings("distance", distance)
        if not over:
            raise invalid("distance", "names no input; leave it out for all, or write False for no distances")
    spec = jobs_pb2.CompareSpec(
        rows=None if rows is None else row_numbers("rows", rows),
        other="" if other is None else resource_name("other", "models", other),
        other_method=name_or_none("other_method", other_method),
        without_ablation=not flag("ablation", ablation),
        without_distance=distance is False,
        distance_inputs=over,
        scatter=count("scatter", scatter),
        **_asked(model, train, test, method, measurement, damping, top_k, leverage_correction),
        **_scoring(tolerance, max_iterations, parameters, rank, normalization, ensemble, seed),
    )
    return jobs_pb2.Job(compare=spec, timeout_seconds=_timeout(timeout_seconds))


def _reweighted(value: Reweight, columns: tuple[str, ...]) -> tuple[list[jobs_pb2.Reweighting], int]:
    """Return the groups that are named, or how many of the leading ones are meant."""
    if value is None:
        return [], 0
    if not isinstance(value, Mapping):
        return [], count("reweight", value)
    if not value:
        raise invalid("reweight", "names no group; write None to retrain nothing")
    found = []
    for key, factors in value.items():
        column, group = key if isinstance(key, tuple) and len(key) == 2 else (None, key)
        if column is None:
            if len(columns) > 1:
                listed = ", ".join(map(repr, columns))
                raise invalid("reweight", f"{key!r} may be of {listed}: write {{(column, group): factor}}")
            column = columns[0]
        if column not in columns:
            raise invalid("reweight", f"{column!r} is none of the columns in by")
        where = f"reweight[{key!r}]"
        listed_factors = list(factors) if isinstance(factors, Iterable) else [factors]
        if not listed_factors:
            raise invalid(where, "names no factor; 0 removes the group")
        checked = [non_negative(where, factor) for factor in listed_factors]
        found += [jobs_pb2.Reweighting(column=column, group=str(group), factor=factor) for factor in checked]
    return found, 0


def _asked(
    model: Model | str,
    train: Dataset | str,
    test: Dataset | str,
    method: str | None,
    measurement: Measurement,
    damping: float | None,
    top_k: int,
    leverage_correction: bool | None,
) -> dict[str, Any]:
    return {
        "model": resource_name("model", "models", model),
        "train": resource_name("train", "datasets", train),
        "test": resource_name("test", "datasets", test),
        "method": name_or_none("method", method),
        "measurement": _convert_jobs.measurement("measurement", measurement),
        "damping": None if damping is None else non_negative("damping", damping),
        "top_k": positive("top_k", top_k),
        "leverage_correction": flag_or_none("leverage_correction", leverage_correction),
    }


def _scoring(
    tolerance: float | None,
    max_iterations: int | None,
    parameters: Iterable[str] | None,
    rank: int | None,
    normalization: Normalization | None,
    ensemble: bool,
    seed: int,
) -> dict[str, Any]:
    return {
        "tolerance": None if tolerance is None else relative("tolerance", tolerance),
        "max_iterations": None if max_iterations is None else positive("max_iterations", max_iterations),
        "parameters": strings("parameters", parameters or ()),
        "rank": None if rank is None else positive("rank", rank),
        "normalization": None if normalization is None else _convert_jobs.normalization("normalization", normalization),
        "ensemble": flag("ensemble", ensemble),
        "seed": seed_number("seed", seed),
    }


def _timeout(seconds: float | None) -> float:
    return 0.0 if seconds is None else non_negative("timeout_seconds", seconds)
