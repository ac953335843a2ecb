"""Perturb jobs and what they found, between messages and values of the domain. Pure."""

from typing import Any, cast

from undue.v1 import perturbation_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.perturb_jobs import FlipShare, Perturb, Perturbation, PerturbationSummary, PoisonedRow
from undue_service.domain.perturbation import AttackSettings

from .enums import Words
from .responses import numbers

MAX_TARGETS = 1_000_000
"""Test rows of all attacks of a job together."""

_BOUNDS: Words[str] = Words(
    {
        perturbation_pb2.PerturbSpec.BOUND_SAME_8BIT: "same_8bit",
        perturbation_pb2.PerturbSpec.BOUND_LINF: "linf",
        perturbation_pb2.PerturbSpec.BOUND_L2: "l2",
    }
)
_OPTIONAL = (
    "candidates",
    "prefilter",
    "step",
    "momentum",
    "iterations",
    "radius",
    "level",
    "damping",
    "control",
    "confirm",
)
_FIELD = "job.perturb"


def read_spec(message: perturbation_pb2.PerturbSpec) -> Perturb:
    """Return the job of a request, what is unset at its default.

    Raises:
        InvalidArgument: INVALID_FIELD; it names too many rows.
    """
    attacks = tuple(tuple(one.rows) for one in message.attacks)
    if sum(map(len, attacks)) > MAX_TARGETS:
        raise InvalidArgument.at(f"{_FIELD}.attacks", f"names more than {MAX_TARGETS:,} rows in all")
    given: dict[str, Any] = {name: getattr(message, name) for name in _OPTIONAL if message.HasField(cast(Any, name))}
    bound = _BOUNDS.to_domain(f"{_FIELD}.bound", message.bound or perturbation_pb2.PerturbSpec.BOUND_SAME_8BIT)
    settings = AttackSettings(
        input=message.input or None,
        candidate_rows=tuple(message.candidate_rows),
        bound=cast(Any, bound),
        minimum=tuple(message.minimum) or None,
        maximum=tuple(message.maximum) or None,
        fixed=tuple(message.fixed),
        seed=message.seed,
        **given,
    )
    return Perturb(message.model, message.train, message.test, attacks, settings)


def write_spec(value: Perturb) -> perturbation_pb2.PerturbSpec:
    """Return the message of a job."""
    settings = value.settings
    return perturbation_pb2.PerturbSpec(
        model=value.model,
        train=value.train,
        test=value.test,
        attacks=[perturbation_pb2.AttackTargets(rows=rows) for rows in value.attacks],
        input=settings.input or "",
        candidate_rows=settings.candidate_rows,
        bound=_BOUNDS.to_proto(settings.bound),
        minimum=settings.minimum,
        maximum=settings.maximum,
        fixed=settings.fixed,
        seed=settings.seed,
        **{name: getattr(settings, name) for name in _OPTIONAL},
    )


def write_summary(value: PerturbationSummary) -> perturbation_pb2.PerturbationSummary:
    """Return how susceptible the attacked rows are."""
    return perturbation_pb2.PerturbationSummary(
        flipped=_share(value.flipped),
        control=None if value.control is None else _share(value.control),
        already_wrong=value.already_wrong,
        unconfirmed=value.unconfirmed,
        test_loss_before=value.test_loss_before,
        test_loss_after=value.test_loss_after,
        flips=value.flips,
    )


def write_perturbation(value: Perturbation) -> perturbation_pb2.Perturbation:
    """Return what one attack did."""
    targets = [
        perturbation_pb2.AttackedRow(
            row=one.row,
            already_wrong=one.already_wrong,
            flipped=one.flipped,
            confirmed=one.confirmed,
            control_flipped=one.control_flipped,
        )
        for one in value.targets
    ]
    return perturbation_pb2.Perturbation(
        index=value.index,
        targets=targets,
        rows=[perturbation_pb2.PerturbedRow(row=one.row, linf=one.linf, l2=one.l2) for one in value.rows],
        iterations=value.iterations,
        costs=value.costs,
        control_costs=value.control_costs,
        test_loss=value.test_loss,
    )


def write_poisoned(value: PoisonedRow) -> perturbation_pb2.PoisonedRow:
    """Return a training row as an attack left it."""
    return perturbation_pb2.PoisonedRow(
        attack=value.attack, row=value.row, input=value.input, values=numbers(value.values)
    )


def _share(value: FlipShare) -> perturbation_pb2.FlipShare:
    return perturbation_pb2.FlipShare(
        count=value.count, total=value.total, value=value.value, low=value.low, high=value.high
    )
