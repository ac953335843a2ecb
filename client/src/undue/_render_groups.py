"""Results of group influence jobs as aligned text and as escaped HTML."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._render import explanation_text, explanations_html, footer, html_lines, html_table, more_of, table

if TYPE_CHECKING:
    from ._group_results import GroupEffect, GroupInfluenceResult, GroupShare

GROUP_COLUMNS = (
    "column",
    "group",
    "rows",
    "row_share",
    "score",
    "score_low",
    "score_high",
    "share",
    "signed_share",
    "excess",
    "excess_low",
    "excess_high",
    "mean_size",
)
EFFECT_COLUMNS = (
    "column",
    "group",
    "factor",
    "rows",
    "on",
    "cost",
    "measured",
    "predicted",
    "corrected",
    "accuracy",
    "accuracy_after",
)
_SHOWN_COLUMNS = ("group", "rows", "of rows", "of influence", "excess", "95 %", "score", "mean |score|")

_GROUPS_SHOWN = 20
_WIDTH = 32


def group_records(groups: Iterable["GroupShare"]) -> list[tuple[object, ...]]:
    """Return one record of GROUP_COLUMNS for each group."""
    return [
        (
            each.column,
            each.group,
            each.rows,
            each.row_share,
            each.score.value,
            each.score.low,
            each.score.high,
            each.share,
            each.signed_share,
            each.excess.value,
            each.excess.low,
            each.excess.high,
            each.mean_size,
        )
        for each in groups
    ]


def effect_records(effects: Iterable["GroupEffect"]) -> list[tuple[object, ...]]:
    """Return one record of EFFECT_COLUMNS for each effect and part of the test set."""
    return [
        (
            each.column,
            each.group,
            each.factor,
            each.rows,
            on,
            change.cost,
            change.measured,
            change.predicted,
            change.corrected,
            change.accuracy,
            change.accuracy_after,
        )
        for each in effects
        for on, change in (("rows", each.on_rows), ("rest", each.on_rest))
        if change is not None
    ]


def text(result: "GroupInfluenceResult") -> str:
    """Return a result as text: the groups, the effects, the rows, then what the numbers mean."""
    parts = [_headline(result)]
    for column, groups in _columns(result).items():
        body = table((f"{column}", *_SHOWN_COLUMNS[1:]), _shown(groups), _WIDTH)
        parts.append(body + more_of(len(groups) - _GROUPS_SHOWN, "groups"))
    if result.effects:
        parts.append(table(EFFECT_COLUMNS, effect_records(result.effects), _WIDTH))
        parts.append(f"retrained: {result.recipe}")
    return "\n\n".join([*parts, explanation_text(result.explanation), footer(result.diagnostics)])


def html(result: "GroupInfluenceResult") -> str:
    """Return a result as an HTML fragment; everything in it is escaped."""
    parts = [html_lines(_headline(result))]
    for column, groups in _columns(result).items():
        parts.append(html_table((column, *_SHOWN_COLUMNS[1:]), _shown(groups)))
        if rest := more_of(len(groups) - _GROUPS_SHOWN, "groups").strip():
            parts.append(html_lines(rest))
    if result.effects:
        parts.append(html_table(EFFECT_COLUMNS, effect_records(result.effects)))
        parts.append(html_lines(f"retrained: {result.recipe}"))
    parts.append(explanations_html([result.explanation], "test rows"))
    return "".join([*parts, html_lines(footer(result.diagnostics))])


def _columns(result: "GroupInfluenceResult") -> dict[str, list["GroupShare"]]:
    found: dict[str, list[GroupShare]] = {}
    for each in result.groups:
        found.setdefault(each.column, []).append(each)
    return found


def _headline(result: "GroupInfluenceResult") -> str:
    right = "" if result.accuracy is None else f", {result.accuracy:.1%} of them right"
    return f"{len(result.explanation.rows):,} test rows, mean loss {result.loss:.4g}{right}"


def _shown(groups: list["GroupShare"]) -> list[tuple[object, ...]]:
    return [
        (
            each.group,
            each.rows,
            f"{each.row_share:.2%}",
            f"{each.share:.2%}",
            each.excess.value,
            f"{each.excess.low:.3g} to {each.excess.high:.3g}",
            each.score.value,
            each.mean_size,
        )
        for each in groups[:_GROUPS_SHOWN]
    ]
