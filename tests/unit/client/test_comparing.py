"""What the SDK asks of group influence and compare jobs, and how it shows what they found."""

import json

import numpy as np
import pytest

import undue
from undue import _specs
from undue._edits import Edit
from undue._results import Explanation
from undue.cli import output
from undue.cli.reweighting import reweighted

DATA = {"train": "d", "test": "t"}
ASKED = {**DATA, "rows": [4, 5], "by": "site"}


def asked(fake):
    return fake.requests[-1].job


def test_groups_are_asked_for_by_their_defaults(fake, client):
    client.group_influence("m", **ASKED)
    sent = asked(fake).group_influence
    assert (list(sent.rows), list(sent.by), list(sent.reweight)) == ([4, 5], ["site"], [])
    assert (sent.reweight_top, sent.top_k, sent.bootstrap, sent.seeds) == (3, 10, 1000, 1)
    assert not sent.HasField("damping")


def test_groups_are_reweighted_as_they_are_named(fake, client):
    client.group_influence("m", **ASKED, reweight={"a": 0, "b": [0.5, 2]})
    sent = asked(fake).group_influence
    said = [(one.column, one.group, one.factor) for one in sent.reweight]
    assert said == [("site", "a", 0), ("site", "b", 0.5), ("site", "b", 2)]
    assert sent.reweight_top == 0
    client.group_influence("m", **ASKED, reweight={"a": np.float32(0.5)})
    assert [one.factor for one in asked(fake).group_influence.reweight] == [0.5]
    client.group_influence("m", **ASKED | {"by": ["site", "year"]}, reweight={("year", 1999): 0})
    assert [(one.column, one.group) for one in asked(fake).group_influence.reweight] == [("year", "1999")]
    client.group_influence("m", **ASKED, reweight=None)
    assert asked(fake).group_influence.reweight_top == 0
    assert asked(fake).group_influence.HasField("reweight_top")
    client.group_influence("m", **ASKED, reweight=7)
    assert asked(fake).group_influence.reweight_top == 7


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rows": []}, "rows"),
        ({"by": []}, "by"),
        ({"by": ""}, "by"),
        ({"reweight": {}}, "reweight"),
        ({"reweight": {"a": -1}}, "reweight['a']"),
        ({"reweight": {("year", "a"): 1}}, "reweight"),
        ({"by": ["site", "year"], "reweight": {"a": 1}}, "reweight"),
        ({"reweight": -1}, "reweight"),
        ({"reweight": 2**31}, "reweight"),
        ({"reweight": {"a": []}}, "reweight['a']"),
        ({"reweight": {"a": None}}, "reweight['a']"),
        ({"by": 5}, "by"),
        ({"method": 5}, "method"),
        ({"leverage_correction": "no"}, "leverage_correction"),
        ({"ensemble": 1}, "ensemble"),
        ({"top_k": 0}, "top_k"),
        ({"bootstrap": 0}, "bootstrap"),
        ({"seeds": 0}, "seeds"),
        ({"start": "hot"}, "start"),
    ],
)
def test_wrong_groups_are_named_before_anything_is_sent(fake, client, change, field):
    with pytest.raises(undue.InvalidArgument) as caught:
        client.group_influence("m", **ASKED | change)
    assert caught.value.violations[0].field == field
    assert not fake.requests


def test_two_models_are_compared(fake, client):
    client.compare("m", "n", **DATA, rows=[1], method="cg", other_method="ekfac", distance="pixels", ablation=False)
    sent = asked(fake).compare
    assert (sent.model, sent.other, sent.method, sent.other_method) == ("models/m", "models/n", "cg", "ekfac")
    assert (list(sent.distance_inputs), sent.without_distance, sent.without_ablation) == (["pixels"], False, True)
    client.compare("m", **DATA, distance=False)
    assert (asked(fake).compare.other, asked(fake).compare.without_distance) == ("", True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"other_method": "cg"}, "other_method"),
        ({"distance": []}, "distance"),
        ({"distance": 5}, "distance"),
        ({"distance": None}, "distance"),
        ({"scatter": -1}, "scatter"),
        ({"scatter": 2**31}, "scatter"),
        ({"ablation": "no"}, "ablation"),
    ],
)
def test_a_wrong_comparison_is_named_before_anything_is_sent(fake, client, change, field):
    with pytest.raises(undue.InvalidArgument) as caught:
        client.compare("m", **DATA, **change)
    assert caught.value.violations[0].field == field
    assert not fake.requests


def test_an_estimate_is_of_the_job_that_the_arguments_are_of():
    assert _specs.any_job("m", "d", "t", {"rows": [1], "by": "site"}).WhichOneof("spec") == "group_influence"
    assert _specs.any_job("m", "d", "t", {"other": None}).WhichOneof("spec") == "compare"
    by_weight = {"rows": [1], "by": "site", "reweight": 1}
    assert _specs.any_job("m", "d", "t", by_weight).WhichOneof("spec") == "group_influence"
    for edited in ({"without": [[1]]}, {"relabel": {1: 0}}, {"reweight": {1: 0}}, {"counterfactuals": [Edit([1])]}):
        assert _specs.any_job("m", "d", "t", edited).WhichOneof("spec") == "retrain"
    for labelled in ({"rankings": ["loss"]}, {"flip": 0.2}, {"known": [1]}, {"budgets": [0.1]}):
        assert _specs.any_job("m", "d", "t", labelled).WhichOneof("spec") == "mislabels"


def test_factors_are_read_off_the_command_line():
    assert reweighted(["a=0", "b=0.5", "b=2"], ["site"]) == {("site", "a"): [0], ("site", "b"): [0.5, 2]}
    assert reweighted(["site:a=b=1"], ["site"]) == {("site", "a=b"): [1]}
    assert reweighted(["x:y=1"], ["site"]) == {("site", "x:y"): [1]}
    assert reweighted(["year:1=1"], ["site", "year"]) == {("year", "1"): [1]}
    for words, columns in ((["a"], ["site"]), (["a=-1"], ["site"]), (["a=x"], ["site"]), (["a=1"], ["site", "year"])):
        with pytest.raises(undue.InvalidArgument):
            reweighted(words, columns)


@pytest.fixture
def diagnostics():
    stationarity = undue.Stationarity(1e-9, 1e-9, 0.5)
    return undue.Diagnostics(
        "the change", "removal", "exact", 0.0, "convex", True, "cholesky", "converged", 0.0, stationarity, "", 0,
        "float64", "cpu", {}, 1.0, ("mind this",),
    )  # fmt: skip


@pytest.fixture
def groups(diagnostics):
    example = undue.ScoredExample(7, "seven", -0.5, 1, 0, 0.25)
    shares = [
        undue.GroupShare("site", f"<{name}>", 3, 0.5, undue.Interval(-1, -2, 0), 0.75, None, undue.Interval(1.5, 1, 2),
                         0.25, (example,))
        for name in "ab"
    ]  # fmt: skip
    change = undue.CostChange(0.5, 0.125, None, -0.25, 0.5, 0.75)
    effect = undue.GroupEffect("site", "<a>", 0.0, 3, change, None, 1e-12, 4)
    explained = Explanation(1, "1", None, None, 0.5, (), (example,), (1, 2))
    return undue.GroupInfluenceResult(
        tuple(shares), (effect,), explained, 0.5, 0.25, -2.0, 4.0, 8, "fitted again", diagnostics
    )


def test_groups_print_themselves(groups):
    text = str(groups)
    assert text.startswith("2 test rows, mean loss 0.5, 25.0% of them right")
    assert "50.00%" in text
    assert "75.00%" in text
    assert "retrained: fitted again" in text
    assert "warning: mind this" in text
    assert repr(groups) == ("<GroupInfluenceResult: 2 groups, 1 effects, 2 test rows, method exact, damping 0>")
    assert "&lt;a&gt;" in groups._repr_html_()
    assert "<a>" not in groups._repr_html_()
    assert groups.of("<b>").column == "site"
    with pytest.raises(KeyError):
        groups.of("c")
    frame = groups.to_pandas()
    assert frame.excess.tolist() == [1.5, 1.5]
    assert frame.signed_share.isna().all()
    assert groups.effects_to_pandas().measured.tolist() == [0.125]


def test_comparisons_print_themselves(diagnostics, capsys):
    agreement = undue.ListAgreement(None, 0.5, 0.25, 0.75, 1.0)
    example = undue.ScoredExample(7, "seven", 0.5, 1, 0, 0.25)
    view = undue.ModelView(1, 1, 0.5, (example,), (), {"no_loss": agreement}, undue.Nearness(None, 0.875))
    scatter = undue.Scatter(np.array([7]), np.array([0.5], np.float32), None, None)
    row = undue.RowComparison(3, "<three>", view, view, agreement, scatter)
    result = undue.CompareResult((row,) * 11, ("",), diagnostics, diagnostics)
    text = str(result)
    assert "no_loss" in text
    assert "0.875" in text
    assert "and 1 more test rows" in text
    assert "the other model: method exact" in text
    assert "distances are over the input" in text
    assert "&lt;three&gt;" in result._repr_html_()
    frame = result.to_pandas()
    assert len(frame) == 11 * 5
    assert frame["with"].tolist()[:5] == ["other", "no_loss", "nearness", "no_loss", "nearness"]
    assert frame.spearman.isna().sum() == 11 * 3
    output.Output(as_json=True).result(result)
    assert json.loads(capsys.readouterr().out)["rows"][0]["scatter"]["scores"] == [0.5]
