"""Group influence and compare jobs into the domain and back, and what they found out to the SDK."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue import _convert_groups
from undue._results import Explanation
from undue.v1 import jobs_pb2
from undue_service.domain.comparison import Compare
from undue_service.domain.comparison_findings import (
    Ablation,
    CompareSummary,
    ListAgreement,
    ModelView,
    Nearness,
    RowComparison,
    Scatter,
    Variant,
)
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.group_findings import CostChange, GroupEffect, GroupShare, GroupSummary
from undue_service.domain.group_influence import GroupInfluence, Reweighting
from undue_service.domain.jobs import Job
from undue_service.domain.reports import Interval
from undue_service.domain.results import ScoredExample
from undue_service.transport import comparing, groups, job_responses, requests
from undue_service.transport.validation import check
from undue_service.wire.codec import COMPARE_FINDING, GROUP_FINDING
from undue_service.wire.documents import read_lines, write_lines

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.text(min_size=1, max_size=20)
TEXTS = st.text(max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
FLOATS32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FRACTIONS = st.floats(0, 1, exclude_min=True, exclude_max=True)
COUNTS = st.integers(1, 2**31 - 1)
ROWS = st.lists(st.integers(0, 2**62), min_size=1, max_size=5).map(tuple)
SCORING = {
    "model": NAMES,
    "train": NAMES,
    "test": NAMES,
    "rows": ROWS,
    "method": TEXTS,
    "measurement": st.sampled_from(["loss", "logit", "margin"]),
    "damping": st.none() | st.floats(0, 1e300),
    "top_k": st.integers(1, 1000),
    "leverage_correction": st.none() | st.booleans(),
    "tolerance": st.none() | FRACTIONS,
    "max_iterations": st.none() | COUNTS,
    "parameters": st.lists(NAMES, max_size=3).map(tuple),
    "rank": st.none() | COUNTS,
    "normalization": st.sampled_from([None, "theta", "loss"]),
    "ensemble": st.booleans(),
    "seed": st.integers(0, 2**63 - 1),
}
JOBS = st.one_of(
    st.builds(
        GroupInfluence,
        **SCORING,
        by=st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple),
        reweight=st.lists(st.builds(Reweighting, NAMES, TEXTS, st.floats(0, 1e300)), max_size=3).map(tuple),
        reweight_top=st.integers(0, 100),
        bootstrap=st.integers(1, 100_000),
        start=st.sampled_from([None, "warm", "cold"]),
        seeds=st.integers(1, 1000),
        kind=st.just("group_influence"),
    ),
    st.builds(
        Compare,
        **SCORING,
        other=st.none() | NAMES,
        other_method=TEXTS,
        ablation=st.booleans(),
        distance=st.booleans(),
        distance_inputs=st.lists(NAMES, max_size=3, unique=True).map(tuple),
        scatter=st.integers(0, 50_000),
        kind=st.just("compare"),
    ),
)
VALUES = st.integers(0, 9) | FLOATS | st.lists(FLOATS, min_size=1, max_size=3).map(tuple)
EXAMPLES = st.builds(ScoredExample, st.integers(0, 2**62), TEXTS, FLOATS, VALUES, VALUES, FLOATS)
LISTS = st.lists(EXAMPLES, max_size=2).map(tuple)
INTERVALS = st.builds(Interval, FLOATS, FLOATS, FLOATS)
MAYBE = st.none() | FLOATS
CHANGES = st.builds(CostChange, FLOATS, FLOATS, MAYBE, MAYBE, MAYBE, MAYBE)
SUMMARIES = st.builds(
    GroupSummary, st.integers(1, 99), st.integers(0, 99), FLOATS, MAYBE, FLOATS, FLOATS, TEXTS, kind=st.just("summary")
)
SHARES = st.builds(
    GroupShare,
    TEXTS,
    TEXTS,
    st.integers(1, 99),
    FLOATS,
    INTERVALS,
    FLOATS,
    MAYBE,
    INTERVALS,
    FLOATS,
    LISTS,
    kind=st.just("share"),
)
EFFECTS = st.builds(
    GroupEffect,
    NAMES,
    TEXTS,
    FLOATS,
    st.integers(1, 99),
    CHANGES,
    st.none() | CHANGES,
    FLOATS,
    st.integers(0, 99),
    kind=st.just("effect"),
)
AGREEMENTS = st.builds(ListAgreement, MAYBE, FLOATS, FLOATS, FLOATS, FLOATS)
VIEWS = st.builds(
    ModelView,
    VALUES,
    VALUES,
    FLOATS,
    LISTS,
    LISTS,
    st.lists(st.builds(Ablation, st.sampled_from(get_args(Variant)), AGREEMENTS), max_size=3).map(tuple),
    st.none() | st.builds(Nearness, MAYBE, MAYBE),
)
NUMBERS = st.lists(FLOATS32, max_size=3).map(tuple)
COMPARISONS = st.builds(
    RowComparison,
    st.integers(0, 2**62),
    TEXTS,
    VIEWS,
    st.none() | VIEWS,
    st.none() | AGREEMENTS,
    st.builds(Scatter, ROWS, NUMBERS, NUMBERS, NUMBERS),
    kind=st.just("row"),
)


@given(JOBS, st.floats(0, 1e8))
def test_a_job_round_trips(spec, timeout):
    request = jobs_pb2.CreateJobRequest(job=job_responses.job(Job("t", "j", spec, NOW, timeout)))
    check(request)
    assert requests.job_spec(request) == (spec, timeout)


@given(SUMMARIES, st.lists(SHARES, max_size=2), st.lists(EFFECTS, max_size=2))
def test_groups_reach_the_client_through_their_file(tmp_path_factory, summary, shares, effects):
    path = tmp_path_factory.mktemp("groups") / "file"
    write_lines(path, GROUP_FINDING, [summary, *shares, *effects])
    found = [each for block in read_lines(path, GROUP_FINDING) for each in block]
    assert found == [summary, *shares, *effects]
    explained = Explanation(1, "1", None, None, 0.5, (), (), (1, 2))
    result = _convert_groups.group_result([explained], [groups.write_finding(one) for one in found], None, None)
    for name in ("loss", "accuracy", "score", "size", "rest_rows", "recipe"):
        assert getattr(result, name) == getattr(summary, name)
    for kind in ("groups", "effects"):
        expected = [asdict(one) for one in (shares if kind == "groups" else effects)]
        assert _comparable([asdict(one) for one in getattr(result, kind)]) == _comparable(expected)


@given(COMPARISONS)
def test_comparisons_reach_the_client_through_their_file(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("rows") / "file"
    summary = CompareSummary(1, ("pixels",))
    write_lines(path, COMPARE_FINDING, [summary, row])
    [[first, second]] = read_lines(path, COMPARE_FINDING)
    assert (first, second) == (summary, row)
    result = _convert_groups.compare_result([comparing.write_row(row, summary)], None, None)
    [found] = result.rows
    assert result.distance_inputs == ("pixels",)
    assert result.other_diagnostics is None
    assert (found.row, found.id) == (row.row, row.id)
    assert found.scatter.rows.tolist() == list(row.scatter.rows)
    assert found.scatter.scores.tolist() == list(row.scatter.scores)
    for view, expected in ((found.view, row.view), (found.other, row.other)):
        if expected is None:
            assert view is None
            continue
        assert _comparable([asdict(one) for one in view.helpful]) == _comparable(
            [asdict(one) for one in expected.helpful]
        )
        assert (view.prediction, view.target, view.loss) == (expected.prediction, expected.target, expected.loss)
        last = {one.variant: asdict(one.agreement) for one in expected.ablations}
        assert {name: asdict(one) for name, one in view.ablations.items()} == last
        assert (view.nearness is None) == (expected.nearness is None)
        if view.nearness is not None:
            assert asdict(view.nearness) == asdict(expected.nearness)


def _comparable(value):
    """Without what only one of the two sides knows."""
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items() if key not in ("kind", "_instances")}
    return [_comparable(each) for each in value] if isinstance(value, list | tuple) else value


def test_what_is_left_out_has_its_defaults():
    of = {"model": "m", "train": "a", "test": "b"}
    bare = jobs_pb2.GroupInfluenceSpec(**of, rows=[1], by=["site"])
    assert groups.read_spec(bare) == GroupInfluence("m", "a", "b", (1,), ("site",))
    named = jobs_pb2.GroupInfluenceSpec(**of, rows=[1], by=["site"], reweight=[{"column": "site", "group": "a"}])
    assert groups.read_spec(named).reweight_top == 0
    assert groups.read_spec(named).retrains == 1
    assert comparing.read_spec(jobs_pb2.CompareSpec(**of)) == Compare("m", "a", "b")


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("group_influence", {"rows": []}, "rows"),
        ("group_influence", {"by": []}, "by"),
        ("group_influence", {"by": ["a", "a"]}, "by"),
        ("group_influence", {"reweight": [{"group": "a", "factor": 1}]}, "reweight[0].column"),
        ("group_influence", {"reweight": [{"column": "a", "factor": -1}]}, "reweight[0].factor"),
        ("group_influence", {"reweight_top": -1}, "reweight_top"),
        ("group_influence", {"bootstrap": 0}, "bootstrap"),
        ("group_influence", {"top_k": 0}, "top_k"),
        ("compare", {"scatter": -1}, "scatter"),
        ("compare", {"distance_inputs": ["a", "a"]}, "distance_inputs"),
        ("compare", {"damping": float("nan")}, "damping"),
        ("compare", {"model": ""}, "model"),
    ],
)
def test_what_cannot_be_asked_is_named(kind, change, field):
    spec = {"model": "m", "train": "a", "test": "b"} | ({"rows": [1], "by": ["a"]} if kind != "compare" else {})
    with pytest.raises(InvalidArgument) as caught:
        check(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(**{kind: spec | change})))
    assert caught.value.violations[0].field == f"job.{kind}.{field}"


def test_a_file_that_is_something_else_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b'{"kind": "summary"}\n')
    with pytest.raises(ValueError):  # noqa: PT011  the codec's word
        list(read_lines(path, GROUP_FINDING))


def test_long_files_come_in_blocks(tmp_path):
    summary = CompareSummary(1, ("x" * 1000,))
    write_lines(tmp_path / "file", COMPARE_FINDING, [summary] * 1000)
    blocks = list(read_lines(tmp_path / "file", COMPARE_FINDING))
    assert len(blocks) > 2
    assert sum(map(len, blocks)) == 1000
