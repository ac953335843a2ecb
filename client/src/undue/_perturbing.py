"""What callers ask of a perturb job, as a message. Pure."""

import math
import numbers
from collections.abc import Iterable
from typing import Any, Literal, get_args

import numpy as np

from ._errors import invalid
from ._inputs import flag, name_or_none, non_negative, positive, resource_name, row_numbers, row_sets, seed_number
from ._resources import Dataset, Model
from .v1 import jobs_pb2, perturbation_pb2

Bound = Literal["same_8bit", "linf", "l2"]

_BOUNDS: dict[Bound, perturbation_pb2.PerturbSpec.Bound.ValueType] = {
    "same_8bit": perturbation_pb2.PerturbSpec.BOUND_SAME_8BIT,
    "linf": perturbation_pb2.PerturbSpec.BOUND_LINF,
    "l2": perturbation_pb2.PerturbSpec.BOUND_L2,
}
OWN = frozenset(
    (
        *("candidates", "candidate_rows", "prefilter", "input_name", "step", "momentum", "iterations"),
        *("bound", "radius", "level", "minimum", "maximum", "fixed", "control", "confirm"),
    )
)
"""Arguments that no other kind of job has."""


def perturb(
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
) -> jobs_pb2.Job:
    """Return a perturb job.

    Raises:
        InvalidArgument: an argument is wrong.
    """
    if bound not in get_args(Bound):
        raise invalid("bound", f"{bound!r} is not one of {', '.join(get_args(Bound))}")
    if bound == "same_8bit" and radius is not None:
        raise invalid("radius", "is that of 'linf' and 'l2': within 'same_8bit' every number keeps its 8-bit level")
    if bound != "same_8bit" and radius is None:
        raise invalid("radius", f"is needed beside bound={bound!r}: how far a row may move, in levels")
    spec = perturbation_pb2.PerturbSpec(
        model=resource_name("model", "models", model),
        train=resource_name("train", "datasets", train),
        test=resource_name("test", "datasets", test),
        attacks=None if rows is None else [perturbation_pb2.AttackTargets(rows=each) for each in attacks("rows", rows)],
        input=name_or_none("input_name", input_name),
        candidates=None if candidates is None else positive("candidates", candidates),
        candidate_rows=None if candidate_rows is None else _distinct("candidate_rows", candidate_rows),
        prefilter=None if prefilter is None else positive("prefilter", prefilter),
        step=None if step is None else _more_than_0("step", step),
        momentum=None if momentum is None else _momentum(momentum),
        iterations=None if iterations is None else positive("iterations", iterations),
        bound=_BOUNDS[bound],
        radius=None if radius is None else _more_than_0("radius", radius),
        level=None if level is None else _more_than_0("level", level),
        minimum=_limit("minimum", minimum),
        maximum=_limit("maximum", maximum),
        fixed=_fixed(fixed),
        damping=None if damping is None else non_negative("damping", damping),
        control=flag("control", control),
        confirm=flag("confirm", confirm),
        seed=seed_number("seed", seed),
    )
    seconds = 0.0 if timeout_seconds is None else non_negative("timeout_seconds", timeout_seconds)
    return jobs_pb2.Job(perturb=spec, timeout_seconds=seconds)


def attacks(field: str, rows: Iterable[Any]) -> list[list[int]]:
    """Return the test rows of each attack: a row by itself is an attack of its own.

    Raises:
        InvalidArgument: there are none, or they are neither row numbers nor sets of them.
    """
    if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes)):
        raise invalid(field, f"{rows!r} is not a list of row numbers: write [{rows!r}]")
    listed = list(rows)
    if not any(isinstance(each, Iterable) for each in listed):
        return [[row] for row in row_numbers(field, listed)]
    return row_sets(field, [each if isinstance(each, Iterable) else [each] for each in listed])


def _distinct(field: str, value: Iterable[int]) -> list[int]:
    found = row_numbers(field, value, empty="is empty; leave it out")
    if len(set(found)) < len(found):
        raise invalid(field, "names one twice")
    return found


def _fixed(value: Iterable[int]) -> list[int]:
    places = list(value) if isinstance(value, Iterable) else value
    return [] if places == [] else _distinct("fixed", places)


def _more_than_0(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value <= 0:
        raise invalid(field, f"{value!r} is not a finite number of more than 0")
    return float(value)


def _momentum(value: object) -> float:
    found = non_negative("momentum", value)
    if found >= 1:
        raise invalid("momentum", f"{value!r} is not a number from 0 to below 1")
    return found


def _limit(field: str, value: object) -> list[float] | None:
    """Return a limit of all numbers of a row, or one for each of them, flattened."""
    if value is None:
        return None
    try:
        found = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise invalid(field, f"is neither a number nor one for each number of a row: {error}") from None
    if found.size == 0 or not np.isfinite(found).all():
        raise invalid(field, "is neither a finite number nor one for each number of a row")
    limits: list[float] = found.tolist()
    return limits
