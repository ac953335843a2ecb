"""Results as aligned text and as escaped HTML."""

import html
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._fidelity import FidelityFinding
    from ._results import (
        Counterfactual,
        Diagnostics,
        Explanation,
        InfluenceResult,
        RetrainResult,
        ScoredExample,
        SelfInfluenceResult,
    )

EXAMPLE_COLUMNS = ("rank", "train_row", "id", "score", "target", "prediction", "loss")
EXPLANATION_COLUMNS = ("test_row", "test_id", "side", *EXAMPLE_COLUMNS)
CHANGE_COLUMNS = ("counterfactual", "without", "test_row", "cost", "change")
COUNTERFACTUAL_COLUMNS = ("without", "mean change", "largest change", "of test row", "gradient norm", "steps")

_EXPLANATIONS_SHOWN = 10
_EXAMPLES_SHOWN = 20
_ID_WIDTH = 32
_ROWS_SHOWN = 5


def example_records(examples: Iterable["ScoredExample"]) -> list[tuple[object, ...]]:
    """Return one record of EXAMPLE_COLUMNS for each training row; ranks count from 1."""
    return [(rank, e.row, e.id, e.score, e.target, e.prediction, e.loss) for rank, e in enumerate(examples, 1)]


def explanation_records(explanations: Iterable["Explanation"]) -> list[tuple[object, ...]]:
    """Return one record of EXPLANATION_COLUMNS for each test row, side and training row."""
    return [
        (*((None, None) if explanation.rows else (explanation.row, explanation.id)), side, *record)
        for explanation in explanations
        for side, examples in (("helpful", explanation.helpful), ("harmful", explanation.harmful))
        for record in example_records(examples)
    ]


def change_records(result: "RetrainResult") -> list[tuple[object, ...]]:
    """Return one record of CHANGE_COLUMNS for each set of rows and test row."""
    return [
        (each.index, each.without, row, cost, change)
        for each in result.counterfactuals
        for row, cost, change in zip(result.rows, result.costs.tolist(), each.changes.tolist(), strict=True)
    ]


def counterfactual_records(result: "RetrainResult", most: int) -> list[tuple[object, ...]]:
    """Return one record of COUNTERFACTUAL_COLUMNS for each of the first sets of rows."""
    records: list[tuple[object, ...]] = []
    for each in result.counterfactuals[:most]:
        place = int(abs(each.changes).argmax())
        largest = float(each.changes[place])
        mean = float(each.changes.mean())
        records.append((_edited(each), mean, largest, result.rows[place], each.gradient_norm, each.iterations))
    return records


def _edited(one: "Counterfactual") -> str:
    """Return which rows were left out, and which were different."""
    parts = [_some_rows(one.without)] if one.without else []
    for name in ("replaced", "relabelled", "reweighted"):
        rows = getattr(one, name)
        parts += [f"{name} {_some_rows(rows)}"] if rows else []
    return "; ".join(parts)


def table(columns: Sequence[str], records: Iterable[Sequence[object]], widest: int | None = None) -> str:
    """Return an aligned table: numbers to the right, text to the left and, where asked, cut at a width."""
    rows = [[cell(value, widest) for value in record] for record in records]
    originals = list(zip(columns, *rows, strict=True)) if rows else [(name,) for name in columns]
    widths = [max(len(text) for text in column) for column in originals]
    numeric = [len(column) > 1 and all(_is_number(text) for text in column[1:]) for column in originals]

    def line(cells: Sequence[str]) -> str:
        aligned = zip(cells, widths, numeric, strict=True)
        return "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in aligned).rstrip()

    return "\n".join([line(columns), *(line(row) for row in rows)])


def cell(value: object, widest: int | None = None) -> str:
    """Return a value as one line of printable text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, tuple):
        return "(" + ", ".join(cell(item) for item in value) + ")"
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    # What others chose to call their rows must not move the cursor or run over the screen.
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value))
    return text if widest is None or len(text) <= widest else text[: widest - 1] + "…"


def method_text(diagnostics: "Diagnostics") -> str:
    """Return method and damping in a few words."""
    damping = "" if diagnostics.damping_source == "unused" else f", damping {cell(diagnostics.damping)}"
    return f"method {diagnostics.method}{damping}"


def explanation_text(explanation: "Explanation") -> str:
    """Return an explanation as a headline and a table."""
    columns = ("side", *EXAMPLE_COLUMNS)
    records = [record[2:] for record in explanation_records([explanation])]
    body = table(columns, records, _ID_WIDTH) if records else "(only the score matrix was kept)"
    return f"{_headline(explanation)}\n{body}"


def influence_text(result: "InfluenceResult") -> str:
    """Return a result as text: the first explanations, then what the scores mean."""
    return "\n\n".join([*explanations_text(result.explanations, "test rows"), footer(result.diagnostics)])


def explanations_text(explanations: Sequence["Explanation"], what: str) -> list[str]:
    """Return the first of some explanations as texts, and how many more there are of what."""
    shown = [explanation_text(explanation) for explanation in explanations[:_EXPLANATIONS_SHOWN]]
    more = len(explanations) - len(shown)
    return [*shown, f"… and {more} more {what}"] if more else shown


def self_influence_text(result: "SelfInfluenceResult") -> str:
    """Return a ranking as text: the first rows, then what the scores mean."""
    body = table(EXAMPLE_COLUMNS, example_records(result.examples[:_EXAMPLES_SHOWN]), _ID_WIDTH)
    more = len(result.examples) - _EXAMPLES_SHOWN
    return "\n\n".join([body + (f"\n… and {more} more rows" if more > 0 else ""), footer(result.diagnostics)])


def retrain_text(result: "RetrainResult") -> str:
    """Return what was measured as text: the first sets of rows, then what the numbers mean."""
    body = table(COUNTERFACTUAL_COLUMNS, counterfactual_records(result, _EXAMPLES_SHOWN))
    return "\n\n".join([body + more_of(len(result) - _EXAMPLES_SHOWN, "fits"), footer(result.diagnostics)])


def retrain_html(result: "RetrainResult") -> str:
    """Return what was measured as an HTML fragment; everything in it is escaped."""
    shown = html_table(COUNTERFACTUAL_COLUMNS, counterfactual_records(result, _EXAMPLES_SHOWN))
    more = more_of(len(result) - _EXAMPLES_SHOWN, "fits").strip()
    return shown + (f"<p>{more}</p>" if more else "") + html_lines(footer(result.diagnostics))


def influence_html(result: "InfluenceResult") -> str:
    """Return a result as an HTML fragment; everything in it is escaped."""
    return explanations_html(result.explanations, "test rows") + html_lines(footer(result.diagnostics))


def explanations_html(explanations: Sequence["Explanation"], what: str) -> str:
    """Return the first of some explanations as HTML, and how many more there are of what."""
    parts = []
    for explanation in explanations[:_EXPLANATIONS_SHOWN]:
        parts.append(f"<p><b>{html.escape(_headline(explanation))}</b></p>")
        parts.append(
            html_table(("side", *EXAMPLE_COLUMNS), [record[2:] for record in explanation_records([explanation])])
        )
    more = len(explanations) - _EXPLANATIONS_SHOWN
    if more > 0:
        parts.append(f"<p>… and {more} more {what}</p>")
    return "".join(parts)


def self_influence_html(result: "SelfInfluenceResult") -> str:
    """Return a ranking as an HTML fragment; everything in it is escaped."""
    shown = html_table(EXAMPLE_COLUMNS, example_records(result.examples[:_EXAMPLES_SHOWN]))
    more = len(result.examples) - _EXAMPLES_SHOWN
    return shown + (f"<p>… and {more} more rows</p>" if more > 0 else "") + html_lines(footer(result.diagnostics))


def footer(diagnostics: "Diagnostics", *, finding: bool = True) -> str:
    """Return what scores mean in a few lines and, unless it is told elsewhere, how well they foretell retraining."""
    lines = [f"{method_text(diagnostics)}, {diagnostics.scale} scale: {diagnostics.estimand}"]
    lines += [f"warning: {warning}" for warning in diagnostics.warnings]
    if finding and diagnostics.fidelity is not None:
        lines += fidelity_lines(diagnostics.fidelity)
    return "\n".join(lines)


def fidelity_lines(finding: "FidelityFinding") -> list[str]:
    """Return what a finding says in a few lines."""
    found = finding.agreement
    said = f"Pearson {found.pearson}, Spearman {found.spearman}, slope {found.slope}"
    if finding.lds is not None:
        said = f"linear datamodelling score {finding.lds}, Pearson {found.pearson}, slope {found.slope}"
    lines = [f"against {found.retrainings} retrainings: {said}"]
    return lines + [f"warning: {warning}" for warning in finding.warnings]


def more_of(count: int, what: str) -> str:
    """Return a line that says how many are not shown; empty for none."""
    return f"\n… and {count} more {what}" if count > 0 else ""


def html_table(columns: Sequence[str], records: Iterable[Sequence[object]]) -> str:
    """Return a table as HTML; everything in it is escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = ("".join(f"<td>{html.escape(cell(value, _ID_WIDTH))}</td>" for value in record) for record in records)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def html_lines(text: str) -> str:
    """Return lines as an HTML paragraph, escaped."""
    return "<p>" + "<br>".join(html.escape(line) for line in text.split("\n")) + "</p>"


def _headline(explanation: "Explanation") -> str:
    if explanation.rows:
        rows = _some_rows(explanation.rows)
        return f"mean over {len(explanation.rows):,} test rows ({rows}): loss {cell(explanation.loss)}"
    said = f"predicted {cell(explanation.prediction)}, target {cell(explanation.target)}, loss {cell(explanation.loss)}"
    named = "" if explanation.id in ("", str(explanation.row)) else f" ({cell(explanation.id, _ID_WIDTH)})"
    what = "row" if explanation.index else "test row"
    return f"{what} {explanation.row}{named}: {said}"


def _some_rows(rows: Sequence[int]) -> str:
    text = ", ".join(map(str, rows[:_ROWS_SHOWN]))
    return text + (f", … ({len(rows):,})" if len(rows) > _ROWS_SHOWN else "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True
