"""The demonstration's answer as text for a terminal."""

import itertools
import textwrap

import undue
from demo_cases import SIGN, Case, Findings


def report(findings: Findings) -> str:
    """Return everything that was found as text for a terminal."""
    digits = [f"{table(case)}\n{_fill(case.why)}\n{_fill(case.check)}" for case in findings.cases]
    doubts = [
        f"    row {each.example.row:5}: labelled {each.example.target}, read as {each.example.prediction};"
        f" harms {each.harms} of the misread digits ({each.harm:+.3f}), helps {each.helps}"
        for each in findings.doubts
    ]
    closing = [
        _fill(SIGN),
        _fill("! = the model does not believe the row's own label."),
        "",
        "  Training labels worth a second look, most harmful first:",
        *(doubts or ["    none"]),
        "",
        _fill(f"Checked by retraining: {findings.agreement}"),
        "",
        _diagnostics(findings.diagnostics),
    ]
    return "\n\n".join(digits) + "\n\n" + "\n".join(closing)


def table(case: Case) -> str:
    """Return one misread digit with its ranked training rows, helpful to the left and harmful to the right."""
    explanation = case.explanation
    heads = [
        f"Test row {explanation.row}: {case.title} (loss {explanation.loss:.2f})",
        f"       {'most helpful':40}most harmful",
        "  " + "         ".join(["rank   row  label  read    score"] * 2),
    ]
    sides = [[_cells(rank, e) for rank, e in enumerate(side, 1)] for side in (explanation.helpful, explanation.harmful)]
    pairs = itertools.zip_longest(*sides, fillvalue=" " * 33)
    return "\n".join(heads + [f"  {helpful}       {harmful}".rstrip() for helpful, harmful in pairs])


def _cells(rank: int, example: undue.ScoredExample) -> str:
    doubt = "!" if example.prediction != example.target else " "
    return f"{rank:4} {example.row:5} {example.target:6} {example.prediction:5}{doubt} {example.score:+8.3f} "


def _fill(text: str) -> str:
    return textwrap.fill(text, 88, initial_indent="  ", subsequent_indent="  ")


def _diagnostics(d: undue.Diagnostics) -> str:
    return (
        f"  Diagnostics: {d.method}, {d.estimand}; damping {d.damping:g} ({d.damping_source});"
        f" {d.solver} {d.solver_status}, residual {d.residual:.1e}; stationarity {d.stationarity.relative:.1e};"
        f" leverage correction {'on' if d.leverage_correction else 'off'}"
    )
