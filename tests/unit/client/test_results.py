import dataclasses
import pickle

import numpy as np
import pytest

import undue

FIT = undue.Stationarity(0.0, 0.0, 0.5)
DIAGNOSTICS = undue.Diagnostics(
    estimand="change <of> the loss",
    scale="removal",
    method="exact",
    damping=0.01,
    damping_source="given",
    leverage_correction=True,
    solver="cholesky",
    solver_status="ok",
    residual=0.0,
    stationarity=FIT,
    recipe="recipe",
    seed=0,
    dtype="float64",
    device="cpu",
    digests={"model": "ab"},
    seconds=0.1,
    warnings=("not fitted",),
)


def example(row: int, score: float, name: str | None = None) -> undue.ScoredExample:
    return undue.ScoredExample(row, str(row) if name is None else name, score, 1, 2, 0.5)


def explanation(row: int = 7, name: str = "seven") -> undue.Explanation:
    return undue.Explanation(row, name, 3, 5, 2.25, (example(1, 0.5), example(2, 0.25)), (example(3, -0.75),))


def result(*explanations: undue.Explanation) -> undue.InfluenceResult:
    return undue.InfluenceResult(explanations or (explanation(),), None, DIAGNOSTICS)


def test_the_long_table() -> None:
    frame = result().to_pandas()
    columns = ["test_row", "test_id", "side", "rank", "train_row", "id", "score", "target", "prediction", "loss"]
    assert list(frame.columns) == columns
    assert frame[["side", "rank", "train_row", "score"]].values.tolist() == [
        ["helpful", 1, 1, 0.5],
        ["helpful", 2, 2, 0.25],
        ["harmful", 1, 3, -0.75],
    ]
    assert set(frame["test_row"]) == {7}


def test_tables_without_rows_still_have_columns() -> None:
    empty = undue.InfluenceResult((), np.zeros((0, 0), np.float32), DIAGNOSTICS)
    assert len(empty.to_pandas().columns) == 10
    assert str(empty)


def test_the_ranking_table() -> None:
    frame = undue.SelfInfluenceResult((example(9, 3.0), example(4, 1.0)), DIAGNOSTICS).to_pandas()
    assert frame["train_row"].tolist() == [9, 4]
    assert frame["rank"].tolist() == [1, 2]


def test_pandas_missing_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(undue.FailedPrecondition, match=r"undue\[pandas\]"):
        result().to_pandas()


def test_text_is_an_aligned_table_with_what_the_scores_mean() -> None:
    lines = str(result()).split("\n")
    assert lines[0] == "test row 7 (seven): predicted 3, target 5, loss 2.25"
    assert lines[1].split() == ["side", "rank", "train_row", "id", "score", "target", "prediction", "loss"]
    assert [line.split()[:5] for line in lines[2:5]] == [
        ["helpful", "1", "1", "1", "0.5"],
        ["helpful", "2", "2", "2", "0.25"],
        ["harmful", "1", "3", "3", "-0.75"],
    ]
    assert len({line.index("0.25") + 4 if "0.25" in line else line.index("-0.75") + 5 for line in lines[3:5]}) == 1
    assert lines[-2] == "method exact, damping 0.01, removal scale: change <of> the loss"
    assert lines[-1] == "warning: not fitted"


def test_long_results_are_cut_in_print_only() -> None:
    many = result(*(explanation(row, str(row)) for row in range(13)))
    assert "… and 3 more test rows" in str(many)
    assert "… and 3 more test rows" in many._repr_html_()
    assert len(many.to_pandas()) == 39
    ranking = undue.SelfInfluenceResult(tuple(example(row, 1.0) for row in range(25)), DIAGNOSTICS)
    assert "… and 5 more rows" in str(ranking)
    assert "… and 5 more rows" in ranking._repr_html_()


def test_hostile_names_neither_break_the_terminal_nor_the_page() -> None:
    nasty = "<script>\x1b[2J\n" + "x" * 100
    shown = undue.InfluenceResult(
        (dataclasses.replace(explanation(name=nasty), helpful=(example(1, 0.5, nasty),)),), None, DIAGNOSTICS
    )
    assert "\x1b" not in str(shown)
    assert "x" * 40 not in str(shown)
    page = shown._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page


def test_repr_is_one_line() -> None:
    assert repr(result()) == "<InfluenceResult: 1 test rows, 3 scored rows, method exact, damping 0.01>"
    whole = undue.InfluenceResult((explanation(),), np.zeros((1, 4), np.float32), DIAGNOSTICS)
    assert "all scores" in repr(whole)


def test_results_are_frozen_and_picklable() -> None:
    made = result()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.scores = None  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(made))
    assert copy.explanations == made.explanations
    assert copy.diagnostics == made.diagnostics


def retrained(sets: int = 2) -> undue.RetrainResult:
    found = tuple(
        undue.Counterfactual(k, tuple(range(k, 2 * k + 1)), np.array([0.25, -0.5 * k]), 1e-11, 3) for k in range(sets)
    )
    return undue.RetrainResult((5, 3), np.array([0.5, 1.5]), found, DIAGNOSTICS)


def test_measured_changes_print_and_make_a_long_table() -> None:
    result = retrained(40)
    assert repr(result) == "<RetrainResult: 40 fits, 2 test rows>"
    assert result.changes.shape == (40, 2)
    lines = str(result).split("\n")
    assert " ".join(lines[0].split()) == "without mean change largest change of test row gradient norm steps"
    assert lines[1].split() == ["0", "0.125", "0.25", "5", "1e-11", "3"]
    assert lines[4].split() == ["3,", "4,", "5,", "6", "-0.625", "-1.5", "3", "1e-11", "3"]
    assert "5, 6, 7, 8, 9, … (6)" in lines[6]
    assert "… and 20 more fits" in lines
    assert lines[-1] == "warning: not fitted"
    frame = retrained().to_pandas()
    assert list(frame.columns) == ["counterfactual", "without", "test_row", "cost", "change"]
    assert frame.values.tolist() == [
        [0, (0,), 5, 0.5, 0.25],
        [0, (0,), 3, 1.5, -0.0],
        [1, (1, 2), 5, 0.5, 0.25],
        [1, (1, 2), 3, 1.5, -0.5],
    ]
    page = result._repr_html_()
    assert page.count("<tr>") == 21
    assert "&lt;of&gt;" in page
    assert "20 more fits" in page
    assert retrained(0).changes.shape == (0, 2)
    assert str(retrained(0))


def test_rows_that_are_explained_together_say_so() -> None:
    rows = tuple(range(4, 1204))
    together = undue.Explanation(4, "four", None, None, 0.5, (example(1, 0.5),), (), rows)
    assert str(together).split("\n")[0] == "mean over 1,200 test rows (4, 5, 6, 7, 8, … (1,200)): loss 0.5"
    assert repr(result(together)).startswith("<InfluenceResult: 1200 test rows, 1 scored rows")
    frame = result(together).to_pandas()
    assert frame["test_row"].isna().all()
    assert frame["train_row"].tolist() == [1]
