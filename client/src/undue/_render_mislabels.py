"""Results of mislabels jobs as aligned text and as escaped HTML."""

from typing import TYPE_CHECKING

from ._render import EXAMPLE_COLUMNS, example_records, footer, html_lines, html_table, table

if TYPE_CHECKING:
    from ._mislabels_results import MislabelsResult, SeedMean, SuspectsResult

REPETITION_COLUMNS = ("ranking", "budget", "checked", "repetition", "found", "accuracy")
SUSPECT_COLUMNS = ("ranking", *EXAMPLE_COLUMNS)

_SHOWN = 10
_ID_WIDTH = 32


def repetition_records(result: "MislabelsResult") -> list[tuple[object, ...]]:
    """Return one record of REPETITION_COLUMNS for each ranking, budget and repetition."""
    return [
        (ranking, point.budget, point.checked, repetition, found, accuracy)
        for ranking, points in result.curves.items()
        for point in points
        for repetition, (found, accuracy) in enumerate(
            zip(point.found.by_seed.tolist(), point.accuracy.by_seed.tolist(), strict=True)
        )
    ]


def suspect_records(result: "SuspectsResult", most: int | None = None) -> list[tuple[object, ...]]:
    """Return one record of SUSPECT_COLUMNS for each ranking and row."""
    return [(name, *record) for name, examples in result.lists.items() for record in example_records(examples[:most])]


def curves_text(result: "MislabelsResult") -> str:
    """Return curves as two tables, of what is found and of what that is worth."""
    columns = _columns(result)
    return (
        "\n\n".join(f"{title}\n{table(columns, _curve_records(result, what))}" for title, what in _TITLES.items())
        + "\n\n"
        + "\n".join(_lines(result))
    )


def curves_html(result: "MislabelsResult") -> str:
    """Return curves as an HTML fragment; everything in it is escaped."""
    columns = _columns(result)
    parts = [html_lines(title) + html_table(columns, _curve_records(result, what)) for title, what in _TITLES.items()]
    return "".join(parts) + html_lines("\n".join(_lines(result)))


def suspects_text(result: "SuspectsResult") -> str:
    """Return the first rows of each ranking, and what the rankings have in common."""
    body = table(SUSPECT_COLUMNS, suspect_records(result, _SHOWN), _ID_WIDTH)
    overlap = table(*_overlap(result))
    shared = f"share of {len(result)} rows that two rankings have in common\n{overlap}"
    return "\n\n".join([body, shared, footer(result.diagnostics)])


def suspects_html(result: "SuspectsResult") -> str:
    """Return the first rows of each ranking as an HTML fragment; everything in it is escaped."""
    shown = html_table(SUSPECT_COLUMNS, suspect_records(result, _SHOWN))
    return shown + html_table(*_overlap(result)) + html_lines(footer(result.diagnostics))


_TITLES = {
    "share of the wrong rows among those looked at (mean and interval of 95 % over the seeds)": "found",
    "accuracy once they are put right": "accuracy",
}


def _columns(result: "MislabelsResult") -> tuple[str, ...]:
    return ("ranking", *(f"{100 * budget:g} %" for budget in result.budgets))


def _curve_records(result: "MislabelsResult", what: str) -> list[tuple[object, ...]]:
    return [(name, *(_mean(getattr(point, what)) for point in points)) for name, points in result.curves.items()]


def _mean(mean: "SeedMean") -> str:
    if len(mean.by_seed) == 1:
        return f"{mean.value:.3f}"
    return f"{mean.value:.3f} ±{mean.high - mean.value:.3f}"


def _lines(result: "MislabelsResult") -> list[str]:
    wrong = float(result.accuracy_wrong.mean())
    said = (
        f"{result.wrong:,} wrong rows, {len(result)} repetitions; accuracy {result.accuracy_right:.3f} without "
        f"mistakes, {wrong:.3f} with all of them"
    )
    return [said, result.diagnostics.recipe, footer(result.diagnostics)]


def _overlap(result: "SuspectsResult") -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    names = result.rankings
    records: list[tuple[object, ...]] = [
        (name, *shares) for name, shares in zip(names, result.overlap.tolist(), strict=True)
    ]
    return ("", *names), records
