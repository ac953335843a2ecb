"""Results of perturb jobs as aligned text and as escaped HTML."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._render import footer, html_lines, html_table, more_of, table

if TYPE_CHECKING:
    from ._perturb_results import Attack, PerturbResult

ATTACKED_COLUMNS = (
    "attack",
    "test_row",
    "already_wrong",
    "flipped",
    "confirmed",
    "control_flipped",
    "cost_before",
    "cost_after",
    "iterations",
    "train_rows",
    "linf",
    "l2",
)
SHOWN_COLUMNS = ("attack", "test row", "outcome", "cost", "after", "iterations", "train rows", "L∞", "L2", "control")

_ATTACKED_SHOWN = 20


def attacked_records(attacks: Iterable["Attack"]) -> list[tuple[object, ...]]:
    """Return one record of ATTACKED_COLUMNS for each attack and test row."""
    return [
        (
            attack.index,
            each.row,
            each.already_wrong,
            each.flipped,
            each.confirmed,
            each.control_flipped,
            attack.costs[0] if attack.rows else None,
            attack.costs[-1] if attack.rows else None,
            attack.iterations,
            [moved.row for moved in attack.rows],
            max((moved.linf for moved in attack.rows), default=0.0),
            max((moved.l2 for moved in attack.rows), default=0.0),
        )
        for attack in attacks
        for each in attack.targets
    ]


def summary_lines(result: "PerturbResult") -> list[str]:
    """Return what a result says beside its table, a line each."""
    lines = [f"flipped {result.flipped}"]
    if result.control is not None:
        lines.append(f"with random signs {result.control}")
    if result.unconfirmed:
        lines.append(f"{result.unconfirmed} flips were not confirmed by training from nothing, and do not count")
    if result.already_wrong:
        lines.append(f"{result.already_wrong} test rows were wrong already, and were not attacked")
    lines.append(f"mean test loss {result.test_loss_before:.4g} before, {result.test_loss_after:.4g} after")
    return lines


def perturb_text(result: "PerturbResult") -> str:
    """Return a result as text: the first attacked rows, then how many flipped and what that means."""
    records = _shown(result)
    body = table(SHOWN_COLUMNS, records[:_ATTACKED_SHOWN]) + more_of(len(records) - _ATTACKED_SHOWN, "test rows")
    return "\n\n".join([body, "\n".join([*summary_lines(result), footer(result.diagnostics)])])


def perturb_html(result: "PerturbResult") -> str:
    """Return a result as an HTML fragment; everything in it is escaped."""
    records = _shown(result)
    rest = more_of(len(records) - _ATTACKED_SHOWN, "test rows").strip()
    lines = [*([rest] if rest else []), *summary_lines(result), footer(result.diagnostics)]
    return html_table(SHOWN_COLUMNS, records[:_ATTACKED_SHOWN]) + html_lines("\n".join(lines))


def _shown(result: "PerturbResult") -> list[tuple[object, ...]]:
    records: list[tuple[object, ...]] = []
    for attack, row, wrong, flipped, confirmed, control, *costs, steps, rows, linf, l2 in attacked_records(
        result.attacks
    ):
        told = (_outcome(wrong, flipped, confirmed), *costs, steps, rows, linf, l2, _control(wrong, control))
        records.append((attack, row, *told))
    return records


def _outcome(wrong: object, flipped: object, confirmed: object) -> str:
    if wrong:
        return "wrong already"
    if not flipped:
        return "held"
    return {True: "flipped, confirmed", False: "not confirmed", None: "flipped"}[confirmed]  # type: ignore[index]


def _control(wrong: object, flipped: object) -> str | None:
    return None if wrong or flipped is None else "flipped" if flipped else "held"
