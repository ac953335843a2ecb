"""Messages of perturb jobs to values of the SDK. Pure functions."""

from collections.abc import Sequence

from ._errors import Internal
from ._perturb_results import (
    Attack,
    AttackedRow,
    FlipShare,
    PerturbedRow,
    PerturbResult,
    Poisoned,
    PoisonedRows,
    joined,
)
from ._results import Diagnostics
from ._tensors import decode
from .v1 import perturbation_pb2


def attack(message: perturbation_pb2.Perturbation) -> Attack:
    """Return the value of what one attack did."""
    targets = (
        AttackedRow(
            row=one.row,
            already_wrong=one.already_wrong,
            flipped=one.flipped,
            confirmed=one.confirmed if one.HasField("confirmed") else None,
            control_flipped=one.control_flipped if one.HasField("control_flipped") else None,
        )
        for one in message.targets
    )
    return Attack(
        index=message.index,
        targets=tuple(targets),
        rows=tuple(PerturbedRow(one.row, one.linf, one.l2) for one in message.rows),
        iterations=message.iterations,
        costs=tuple(message.costs),
        control_costs=tuple(message.control_costs),
        test_loss=message.test_loss,
    )


def perturb_result(
    summary: perturbation_pb2.PerturbationSummary,
    attacks: Sequence[Attack],
    diagnostics: Diagnostics,
    poisoned: PoisonedRows,
) -> PerturbResult:
    """Return the value of a perturb job's result."""
    return PerturbResult(
        attacks=tuple(attacks),
        flipped=_share(summary.flipped),
        control=_share(summary.control) if summary.HasField("control") else None,
        already_wrong=summary.already_wrong,
        unconfirmed=summary.unconfirmed,
        test_loss_before=summary.test_loss_before,
        test_loss_after=summary.test_loss_after,
        flips=tuple(summary.flips),
        diagnostics=diagnostics,
        _poisoned=poisoned,
    )


def poisoned(name: str, attack: int, messages: Sequence[perturbation_pb2.PoisonedRow]) -> Poisoned:
    """Return the rows of one attack.

    Raises:
        Internal: they are not what was asked for.
    """
    rows = [(each.row, each.input, decode(each.values)) for each in messages if each.attack == attack]
    if not rows or len(rows) < len(messages) or len({(each[1], each[2].shape, each[2].dtype) for each in rows}) > 1:
        raise Internal(f"{name} did not send the rows that its attack {attack} moved")
    return joined(attack, rows)


def _share(message: perturbation_pb2.FlipShare) -> FlipShare:
    return FlipShare(message.count, message.total, message.value, message.low, message.high)
