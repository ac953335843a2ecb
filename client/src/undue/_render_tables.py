"""Results of fidelity and leverage jobs and of explain as aligned text and as escaped HTML."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._render import (
    EXAMPLE_COLUMNS,
    cell,
    explanation_records,
    explanations_html,
    explanations_text,
    footer,
    html_lines,
    html_table,
    more_of,
    table,
)

if TYPE_CHECKING:
    from ._explain_results import ExplainResult
    from ._fidelity import Agreement, FidelityFinding
    from ._fidelity_results import FidelityResult
    from ._leverage_results import LeverageResult
    from ._results import Explanation

COMPARISON_COLUMNS = ("retraining", "without", "stratum", "test_row", "predicted", "measured")
AGREEMENT_COLUMNS = ("of", "Pearson", "95 %", "Spearman", "95 %", "slope", "95 %", "retrainings")
LIVE_COLUMNS = ("row", "side", *EXAMPLE_COLUMNS)
LEVERAGE_COLUMNS = ("train_row", "id", "leverage", "cooks_distance")

_ROWS_SHOWN = 20
_ID_WIDTH = 32


def comparison_records(result: "FidelityResult") -> list[tuple[object, ...]]:
    """Return one record of COMPARISON_COLUMNS for each retraining and test row."""
    k = len(result)
    without = [None] * k if result.without is None else result.without.tolist()
    strata = [None] * k if result.stratum is None else [None if s < 0 else s for s in result.stratum.tolist()]
    return [
        (index, without[index], strata[index], row, predicted, measured)
        for index in range(k)
        for row, predicted, measured in zip(
            result.rows, result.predicted[index].tolist(), result.measured[index].tolist(), strict=True
        )
    ]


def agreement_records(finding: "FidelityFinding") -> list[tuple[object, ...]]:
    """Return one record of AGREEMENT_COLUMNS for what was drawn at random, and one for each stratum."""
    over = "random subsets" if finding.kind == "lds" else "random rows"
    records = [_agreement(over, finding.agreement)]
    strata = (
        _agreement(f"rows with |score| {each.low:.2g} to {each.high:.2g}", each.agreement) for each in finding.strata
    )
    return [*records, *strata]


def finding_lines(finding: "FidelityFinding") -> list[str]:
    """Return what a finding says beside its table, a line each."""
    lines = [] if finding.lds is None else [f"linear datamodelling score {finding.lds}"]
    lines.append(f"retrained, {finding.seconds:.1f} s: {finding.recipe}")
    return lines + [f"warning: {warning}" for warning in finding.warnings]


def finding_text(finding: "FidelityFinding") -> str:
    """Return a finding as a table, then what the numbers are from."""
    body = table(AGREEMENT_COLUMNS, agreement_records(finding))
    return "\n".join([body, "", *finding_lines(finding)])


def fidelity_text(result: "FidelityResult") -> str:
    """Return a result as text: correlations and slopes, then what was retrained and scored."""
    return f"{finding_text(result.finding)}\n{footer(result.diagnostics, finding=False)}"


def fidelity_html(result: "FidelityResult") -> str:
    """Return a result as an HTML fragment; everything in it is escaped."""
    lines = [*finding_lines(result.finding), footer(result.diagnostics, finding=False)]
    return html_table(AGREEMENT_COLUMNS, agreement_records(result.finding)) + html_lines("\n".join(lines))


def leverage_columns(result: "LeverageResult") -> tuple[str, ...]:
    """Return the columns of a result's table."""
    return (*LEVERAGE_COLUMNS, *(f"dfbeta {name}" for name in result.coefficients))


def leverage_records(result: "LeverageResult") -> list[tuple[object, ...]]:
    """Return one record of `leverage_columns` for each training row."""
    return _leverages(result, range(len(result)), whole=result.dfbeta is not None)


def leverage_text(result: "LeverageResult") -> str:
    """Return a result as text: the rows without which the fit moves furthest, then what the numbers mean."""
    body = table(LEVERAGE_COLUMNS, _leverages(result, _furthest(result)), _ID_WIDTH)
    return "\n\n".join([body + more_of(len(result) - _ROWS_SHOWN, "rows"), footer(result.diagnostics)])


def leverage_html(result: "LeverageResult") -> str:
    """Return a result as an HTML fragment; everything in it is escaped."""
    rest = more_of(len(result) - _ROWS_SHOWN, "rows").strip()
    shown = html_table(LEVERAGE_COLUMNS, _leverages(result, _furthest(result)))
    return shown + (html_lines(rest) if rest else "") + html_lines(footer(result.diagnostics))


def live_records(explanations: Sequence["Explanation"]) -> list[tuple[object, ...]]:
    """Return one record of LIVE_COLUMNS for each row, side and training row."""
    return [(row, *rest) for row, _, *rest in explanation_records(explanations)]


def live_footer(result: "ExplainResult") -> str:
    """Return what answered, in a line."""
    return f"{result.index}, method {result.method}, damping {cell(result.damping)}, recall {result.recall:.4g}"


def live_text(result: "ExplainResult") -> str:
    """Return an answer as text: the first explanations, then what answered."""
    return "\n\n".join([*explanations_text(result.explanations, "rows"), live_footer(result)])


def live_html(result: "ExplainResult") -> str:
    """Return an answer as an HTML fragment; everything in it is escaped."""
    return explanations_html(result.explanations, "rows") + html_lines(live_footer(result))


def _furthest(result: "LeverageResult") -> list[int]:
    order: list[int] = np.argsort(-result.cooks_distance, kind="stable")[:_ROWS_SHOWN].tolist()
    return order


def _leverages(result: "LeverageResult", rows: Sequence[int], whole: bool = False) -> list[tuple[object, ...]]:
    leverage, distance = result.leverage.tolist(), result.cooks_distance.tolist()
    changes = result.dfbeta.tolist() if whole and result.dfbeta is not None else None
    return [
        (row, result.ids[row], leverage[row], distance[row], *(changes[row] if changes is not None else ()))
        for row in rows
    ]


def _agreement(over: str, found: "Agreement") -> tuple[object, ...]:
    cells: list[object] = [over]
    for each in (found.pearson, found.spearman, found.slope):
        cells += [f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}"]
    return (*cells, found.retrainings)
