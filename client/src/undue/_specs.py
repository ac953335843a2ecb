"""What callers ask for, as messages: one function a kind of job, which checks its arguments. Pure."""

from collections.abc import Iterable
from typing import Any

from . import _convert_jobs
from ._inputs import (
    Aggregate,
    Measurement,
    Normalization,
    non_negative,
    positive,
    relative,
    resource_name,
    row_count,
    row_numbers,
    row_sets,
    strings,
)
from ._resources import Dataset, Model
from .v1 import jobs_pb2


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
        method=method or "",
        measurement=_convert_jobs.measurement("measurement", measurement),
        damping=None if damping is None else non_negative("damping", damping),
        top_k=row_count("top_k", top_k),
        leverage_correction=leverage_correction,
        tolerance=None if tolerance is None else relative("tolerance", tolerance),
        max_iterations=None if max_iterations is None else positive("max_iterations", max_iterations),
        aggregate=None if aggregate is None else _convert_jobs.aggregate("aggregate", aggregate),
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
        method=method or "",
        damping=None if damping is None else non_negative("damping", damping),
        top_k=row_count("top_k", top_k),
        leverage_correction=leverage_correction,
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
    without: Iterable[Iterable[int]],
    rows: Iterable[int] | None = None,
    measurement: Measurement = "loss",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    timeout_seconds: float | None = None,
) -> jobs_pb2.Job:
    """Return a retrain job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    spec = jobs_pb2.RetrainSpec(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        test=resource_name("test", "datasets", test),
        rows=None if rows is None else row_numbers("rows", rows),
        without=[jobs_pb2.RowSet(rows=each) for each in row_sets("without", without)],
        measurement=_convert_jobs.measurement("measurement", measurement),
        tolerance=None if tolerance is None else relative("tolerance", tolerance),
        max_iterations=None if max_iterations is None else positive("max_iterations", max_iterations),
    )
    return jobs_pb2.Job(retrain=spec, timeout_seconds=_timeout(timeout_seconds))


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
        "ensemble": ensemble,
        "seed": int(non_negative("seed", seed)),
    }


def _timeout(seconds: float | None) -> float:
    return 0.0 if seconds is None else non_negative("timeout_seconds", seconds)
