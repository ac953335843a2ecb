"""Results of compare jobs as aligned text and as escaped HTML."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ._render import footer, html_lines, html_table, more_of, table

if TYPE_CHECKING:
    from ._compare_results import CompareResult, ListAgreement, ModelView, RowComparison

_MEASURES = ("spearman", "jaccard_helpful", "jaccard_harmful", "overlap_helpful", "overlap_harmful")
COLUMNS = ("test_row", "id", "model", "prediction", "target", "loss", "with", *_MEASURES)
_LISTS = ("test_row", "model", "prediction", "target", "loss", "most helpful rows", "most harmful rows")

_ROWS_SHOWN = 10
_LISTED = 5
_WIDTH = 40


def records(rows: Iterable["RowComparison"]) -> list[tuple[object, ...]]:
    """Return one record of COLUMNS for each test row, model and comparison."""
    return [record for row in rows for record in _of_row(row)]


def text(result: "CompareResult") -> str:
    """Return a result as text: what each model says, then how far rankings agree, then what the scores mean."""
    shown = result.rows[:_ROWS_SHOWN]
    parts = [
        table(_LISTS, _lists(shown), _WIDTH) + more_of(len(result) - len(shown), "test rows"),
        table(COLUMNS, records(shown), _WIDTH),
    ]
    return "\n\n".join([*parts, *_footers(result)])


def html(result: "CompareResult") -> str:
    """Return a result as an HTML fragment; everything in it is escaped."""
    shown = result.rows[:_ROWS_SHOWN]
    rest = more_of(len(result) - len(shown), "test rows").strip()
    parts = [html_table(_LISTS, _lists(shown)), html_lines(rest) if rest else "", html_table(COLUMNS, records(shown))]
    return "".join([*parts, *(html_lines(each) for each in _footers(result))])


def _of_row(row: "RowComparison") -> Iterator[tuple[object, ...]]:
    for model, view in _views(row):
        said = (row.row, row.id, model, view.prediction, view.target, view.loss)
        if model == "model" and row.agreement is not None:
            yield (*said, "other", *_numbers(row.agreement))
        for variant, agreement in view.ablations.items():
            yield (*said, variant, *_numbers(agreement))
        if view.nearness is not None:
            yield (*said, "nearness", view.nearness.spearman, None, None, None, None)


def _lists(rows: Iterable["RowComparison"]) -> list[tuple[object, ...]]:
    return [
        (row.row, model, view.prediction, view.target, view.loss, _first(view.helpful), _first(view.harmful))
        for row in rows
        for model, view in _views(row)
    ]


def _first(examples: Iterable[object]) -> str:
    numbers = [str(getattr(each, "row", "")) for each in examples]
    return ", ".join(numbers[:_LISTED]) + (", …" if len(numbers) > _LISTED else "")


def _views(row: "RowComparison") -> list[tuple[str, "ModelView"]]:
    return [("model", row.view), *([("other", row.other)] if row.other is not None else [])]


def _numbers(agreement: "ListAgreement") -> tuple[object, ...]:
    return tuple(getattr(agreement, name) for name in _MEASURES)


def _footers(result: "CompareResult") -> list[str]:
    lines = [footer(result.diagnostics)]
    if result.other_diagnostics is not None:
        lines.append(f"the other model: {footer(result.other_diagnostics)}")
    if result.distance_inputs:
        lines.append(f"distances are over {', '.join(each or 'the input' for each in result.distance_inputs)}")
    return lines
