"""Mislabels jobs into the domain and back, and what they found out to the SDK."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue import _convert_mislabels, _mislabels
from undue._errors import Internal
from undue.v1 import jobs_pb2, mislabels_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.jobs import Job
from undue_service.domain.mislabels import RANKINGS, KnownRows, MislabelCurve, MislabelPoint, Mislabels, SeedMean
from undue_service.domain.results import ScoredExample
from undue_service.engine.mislabels.finding import MislabelCurves
from undue_service.runner.mislabels import _write_curves
from undue_service.transport import job_responses, mislabels, requests
from undue_service.transport.validation import check
from undue_service.wire.results import SafetensorsResults

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.text(min_size=1, max_size=20)
SHARES = st.floats(0, 1, exclude_min=True)
COMMON = {
    "model": NAMES,
    "train": NAMES,
    "seed": st.integers(0, 2**62),
    "rankings": st.lists(st.sampled_from(RANKINGS), min_size=1, unique=True).map(tuple),
    "folds": st.integers(2, 100),
    "method": st.text(max_size=20),
    "damping": st.none() | st.floats(0, 1e300),
    "leverage_correction": st.none() | st.booleans(),
    "start": st.sampled_from([None, "warm", "cold"]),
}
REPEATED = COMMON | {
    "test": NAMES,
    "budgets": st.lists(SHARES, min_size=1, max_size=4).map(tuple),
    "seeds": st.integers(1, 100),
}
KNOWN = st.lists(st.integers(0, 2**62), min_size=1, max_size=4, unique=True).flatmap(
    lambda rows: st.builds(KnownRows, st.just(tuple(rows)), st.sampled_from([(), tuple(range(len(rows)))]))
)
JOBS = st.one_of(
    st.builds(Mislabels, **REPEATED, flip=st.floats(0, 0.5, exclude_min=True), protocol=st.just("flip")),
    st.builds(Mislabels, **REPEATED, known=KNOWN, protocol=st.just("known")),
    st.builds(Mislabels, **COMMON, top_k=st.integers(1, 100_000), protocol=st.just("as_is")),
)


@given(JOBS, st.floats(0, 1e8))
def test_a_job_round_trips(spec, timeout):
    request = jobs_pb2.CreateJobRequest(job=job_responses.job(Job("t", "j", spec, NOW, timeout)))
    check(request)
    assert requests.job_spec(request) == (spec, timeout)


def test_what_the_client_leaves_out_is_the_services_default():
    asked = jobs_pb2.CreateJobRequest(job=_mislabels.mislabels("m", train="a", test="b"))
    check(asked)
    assert requests.job_spec(asked)[0] == Mislabels("models/m", "datasets/a", "datasets/b")
    listed = requests.job_spec(jobs_pb2.CreateJobRequest(job=_mislabels.suspects("m", train="a")))[0]
    assert (listed.protocol, listed.test, listed.top_k) == ("as_is", "", 100)
    assert listed.rankings == ("self_influence", "loss", "margin", "confident_learning")


@pytest.mark.parametrize("changes", [{"budgets": [0.1]}, {"seeds": 3}])
def test_where_rows_are_only_listed_nothing_is_repeated(changes):
    message = mislabels_pb2.MislabelsSpec(model="m", train="t", suspects=5, **changes)
    with pytest.raises(InvalidArgument) as caught:
        mislabels.read_spec(message)
    assert caught.value.violations[0].field == f"job.mislabels.{next(iter(changes))}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip": 0.0},
        {"flip": 0.6},
        {"flip": math.nan},
        {"flip": 0.1, "budgets": [0.0]},
        {"flip": 0.1, "budgets": [1.5]},
        {"flip": 0.1, "seeds": 0},
        {"flip": 0.1, "rankings": [0]},
        {"flip": 0.1, "rankings": [99]},
        {"flip": 0.1, "rankings": [1, 1]},
        {"flip": 0.1, "folds": 1},
        {"suspects": 0},
        {"known": {}},
        {"known": {"rows": [-1]}},
        {"known": {"rows": [1, 1]}},
    ],
)
def test_rules_of_the_stubs(changes):
    spec = mislabels_pb2.MislabelsSpec(model="m", train="t", test="s", **changes)
    with pytest.raises(InvalidArgument):
        check(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(mislabels=spec)))


def a_curve(name, seeds=3):
    mean = SeedMean(0.5, 0.25, 0.75, tuple(0.1 * s for s in range(seeds)))
    return MislabelCurve(name, (MislabelPoint(0.1, 4, mean, mean),), 7, 0.9, tuple([0.8] * seeds))


def test_curves_reach_the_client():
    messages = [mislabels.write_curve(a_curve(name)) for name in RANKINGS]
    found = _convert_mislabels.mislabels_result("jobs/j", messages, None)
    assert found.rankings == RANKINGS
    assert (found.budgets, found.wrong, found.accuracy_right, len(found)) == ((0.1,), 7, 0.9, 3)
    [point] = found.curves["loss"]
    assert (point.checked, point.found.value, point.found.low, point.found.high) == (4, 0.5, 0.25, 0.75)
    np.testing.assert_allclose(found.found("loss"), [[0.0], [0.1], [0.2]])
    np.testing.assert_allclose(found.accuracy("margin"), [[0.0], [0.1], [0.2]])
    for wrong in ([], [messages[0], mislabels.write_curve(a_curve("loss", 2))]):
        with pytest.raises(Internal):
            _convert_mislabels.mislabels_result("jobs/j", wrong, None)


def test_suspects_reach_the_client():
    examples = [ScoredExample(row, f"id{row}", 3.0 - row, 1, 0, 0.5) for row in range(3)]
    messages = [
        mislabels.write_suspect(name, one) for name in ("loss", "margin") for one in examples[: 2 + (name == "loss")]
    ]
    found = _convert_mislabels.suspects_result(messages, None, None)
    assert found.rankings == ("loss", "margin")
    assert [(e.row, e.id, e.score, e.target, e.prediction, e.loss) for e in found.lists["margin"]] == [
        (0, "id0", 3.0, 1, 0, 0.5),
        (1, "id1", 2.0, 1, 0, 0.5),
    ]
    np.testing.assert_allclose(found.overlap, [[1, 2 / 3], [1, 1]])
    assert found.votes() == {0: ("loss", "margin"), 1: ("loss", "margin"), 2: ("loss",)}


@pytest.mark.parametrize("seeds", [1, 4])
def test_a_file_of_curves_holds_what_was_found(tmp_path, seeds):
    rng = np.random.default_rng(0)
    found, accuracy = rng.random((2, seeds, 3)), rng.random((2, seeds, 3))
    curves = MislabelCurves(
        rankings=("loss", "random"),
        budgets=(0.1, 0.2, 0.3),
        checked=np.array([1, 2, 3]),
        wrong=5,
        found=found,
        accuracy=accuracy,
        accuracy_wrong=rng.random(seeds),
        accuracy_right=0.75,
        diagnostics=None,
        recipe="",
    )
    file = _write_curves(tmp_path, curves)
    read = SafetensorsResults().mislabel_curves(tmp_path / file.path)
    assert [one.ranking for one in read] == ["loss", "random"]
    assert (read[1].wrong, read[1].accuracy_right) == (5, 0.75)
    assert read[0].accuracy_wrong == tuple(curves.accuracy_wrong.tolist())
    for r, curve in enumerate(read):
        assert [(point.budget, point.checked) for point in curve.points] == [(0.1, 1), (0.2, 2), (0.3, 3)]
        for b, point in enumerate(curve.points):
            for mean, values in ((point.found, found[r, :, b]), (point.accuracy, accuracy[r, :, b])):
                assert mean.by_seed == tuple(values.tolist())
                assert mean.value == pytest.approx(values.mean())
                assert mean.low < mean.value < mean.high
                assert math.isinf(mean.high) == (seeds == 1)
