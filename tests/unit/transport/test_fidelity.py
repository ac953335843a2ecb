"""Fidelity and leverage jobs into the domain and back, and what they found out to the SDK."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue import _convert_retraining
from undue._fidelity import FidelitySettings as Asked
from undue.v1 import jobs_pb2
from undue_service.domain.choices import Measurement
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Job
from undue_service.domain.leverage import Leverage
from undue_service.domain.reports import Agreement, FidelityFinding, Interval, Stratum
from undue_service.domain.results import Comparison, LeverageBlock
from undue_service.domain.retraining import Retrain
from undue_service.transport import fidelity, job_responses, requests
from undue_service.transport.validation import check

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.text(min_size=1, max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
FRACTIONS = st.floats(0, 1, exclude_min=True, exclude_max=True)
STARTS = st.sampled_from([None, "warm", "cold"])
ROWS = st.lists(st.integers(0, 2**62), max_size=5).map(tuple)
SETTINGS = st.builds(
    FidelitySettings,
    protocol=st.sampled_from(["loo", "lds"]),
    samples=st.integers(1, 100_000),
    strata=st.integers(1, 1000),
    share=FRACTIONS,
    seeds=st.integers(1, 1000),
    start=STARTS,
    bootstrap=st.integers(1, 100_000),
    seed=st.integers(0, 2**63 - 1),
)
SCORING = {
    "model": NAMES,
    "train": NAMES,
    "test": NAMES,
    "rows": ROWS,
    "method": st.text(max_size=20),
    "measurement": st.sampled_from(get_args(Measurement)),
    "damping": st.none() | st.floats(0, 1e300),
    "leverage_correction": st.none() | st.booleans(),
    "tolerance": st.none() | FRACTIONS,
    "max_iterations": st.none() | st.integers(1, 2**31 - 1),
    "parameters": st.lists(NAMES, max_size=3).map(tuple),
    "rank": st.none() | st.integers(1, 2**31 - 1),
    "normalization": st.sampled_from([None, "theta", "loss"]),
    "ensemble": st.booleans(),
    "seed": st.integers(0, 2**63 - 1),
}
JOBS = st.one_of(
    st.builds(Fidelity, **SCORING, settings=SETTINGS),
    st.builds(Influence, **SCORING, fidelity=st.none() | SETTINGS, top_k=st.none() | st.integers(1, 1000)),
    st.builds(
        Retrain,
        model=NAMES,
        train=NAMES,
        test=NAMES,
        without=st.just(((1,),)),
        start=STARTS,
        seeds=st.integers(1, 1000),
    ),
    st.builds(Leverage, model=NAMES, train=NAMES, damping=SCORING["damping"], dfbeta=st.booleans()),
)
INTERVALS = st.builds(Interval, FLOATS, FLOATS, FLOATS)
AGREEMENTS = st.builds(Agreement, INTERVALS, INTERVALS, INTERVALS, st.integers(0, 2**62), st.integers(0, 2**62))
FINDINGS = st.builds(
    FidelityFinding,
    protocol=st.sampled_from(["loo", "lds"]),
    recipe=st.text(max_size=20),
    agreement=AGREEMENTS,
    strata=st.lists(st.builds(Stratum, FLOATS, FLOATS, AGREEMENTS), max_size=3).map(tuple),
    lds=st.none() | INTERVALS,
    seconds=FLOATS,
    warnings=st.lists(st.text(max_size=20), max_size=2).map(tuple),
)


@given(JOBS, st.floats(0, 1e8))
def test_a_job_round_trips(spec, timeout):
    request = jobs_pb2.CreateJobRequest(job=job_responses.job(Job("t", "j", spec, NOW, timeout)))
    check(request)
    assert requests.job_spec(request) == (spec, timeout)


@given(FINDINGS)
def test_a_finding_reaches_the_client(finding):
    found = asdict(_convert_retraining.finding(fidelity.write_finding(finding)))
    expected = asdict(finding)
    assert found.pop("kind") == expected.pop("protocol")
    assert found == expected


def test_settings_mean_the_same_to_the_client_and_to_the_service():
    message = _convert_retraining.fidelity_settings(Asked())
    assert fidelity.read_settings("settings", message) == FidelitySettings()
    bare = jobs_pb2.FidelitySettings(protocol=jobs_pb2.FidelitySettings.PROTOCOL_LOO)
    assert fidelity.read_settings("settings", bare) == FidelitySettings()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"protocol": 0}, "protocol"),
        ({"protocol": 9}, "protocol"),
        ({"samples": 0}, "samples"),
        ({"strata": 0}, "strata"),
        ({"share": 1.0}, "share"),
        ({"share": float("nan")}, "share"),
        ({"seeds": 0}, "seeds"),
        ({"start": 0}, "start"),
        ({"bootstrap": 0}, "bootstrap"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_setting_is_named(change, field):
    settings = jobs_pb2.FidelitySettings(**{"protocol": 1} | change)
    for job, path in (
        ({"fidelity": {"model": "m", "train": "a", "test": "b", "settings": settings}}, "job.fidelity.settings"),
        ({"influence": {"model": "m", "train": "a", "test": "b", "fidelity": settings}}, "job.influence.fidelity"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            check(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(**job)))
        assert [one.field for one in caught.value.violations] == [f"{path}.{field}"]


@pytest.mark.parametrize(
    "job",
    [
        {"fidelity": {"model": "m", "train": "a", "test": "b"}},
        {"fidelity": {"model": "m", "train": "a", "settings": {"protocol": 1}}},
        {"leverage": {"model": "m"}},
        {"leverage": {"model": "m", "train": "a", "damping": -1.0}},
        {"retrain": {"model": "m", "train": "a", "test": "b", "without": [{"rows": [1]}], "seeds": 0}},
        {"retrain": {"model": "m", "train": "a", "test": "b", "without": [{"rows": [1]}], "start": 0}},
    ],
)
def test_what_lacks_something_is_refused(job):
    with pytest.raises(InvalidArgument):
        check(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(**job)))


def test_a_comparison_says_which_rows_and_where_from():
    drawn = fidelity.write_comparison(Comparison(3, (7,), (), None, (0.5, 1.0), (0.25, 2.0)))
    assert (drawn.index, list(drawn.without), drawn.HasField("stratum")) == (3, [7], False)
    assert (list(drawn.predicted), list(drawn.measured)) == ([0.5, 1.0], [0.25, 2.0])
    from_first = fidelity.write_comparison(Comparison(0, (7,), (), 0, (), ()))
    assert from_first.HasField("stratum")
    assert list(fidelity.write_comparison(Comparison(0, (), (1, 2), None, (), ())).subset) == [1, 2]


def test_a_block_of_leverages_reaches_the_client():
    rng = np.random.default_rng(0)
    h, d, b = rng.random(5), rng.random(5), rng.normal(size=(5, 2))
    blocks = [
        LeverageBlock(0, ("a", "b", "c"), h[:3], d[:3], b[:3], ("w[0]", "b"), 2.0, 0.5),
        LeverageBlock(3, ("d", "e"), h[3:], d[3:], b[3:], (), 2.0, 0.5),
    ]
    messages = [job_responses.leverage_block(one) for one in blocks]
    found = _convert_retraining.leverage_result("jobs/x", messages, None)
    assert found.ids == ("a", "b", "c", "d", "e")
    assert np.array_equal(found.leverage, h)
    assert np.array_equal(found.cooks_distance, d)
    assert np.array_equal(found.dfbeta, b)
    assert (found.coefficients, found.effective_parameters, found.variance) == (("w[0]", "b"), 2.0, 0.5)
