from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.comparison import Compare
from undue_service.domain.errors import Internal, Reason
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.group_influence import GroupInfluence, Reweighting
from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Failure, Job, JobState, Progress
from undue_service.domain.leverage import Leverage
from undue_service.domain.mislabels import KnownRows, Mislabels
from undue_service.domain.perturb_jobs import FlipShare, Perturb, PerturbationSummary
from undue_service.domain.perturbation import AttackSettings
from undue_service.domain.reports import (
    Agreement,
    ColumnSchema,
    DatasetReport,
    Diagnostics,
    FidelityFinding,
    InfluenceReport,
    Interval,
    ModelReport,
    ParameterInfo,
    PerturbationReport,
    Stationarity,
    Stratum,
)
from undue_service.domain.retraining import Retrain
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import FileSource, LocatedFile, SchemaSpec, TransformSpec, UploadedFile
from undue_service.domain.validations import DatasetValidation, ModelValidation
from undue_service.wire.codec import JOB, RESOURCE_SPEC

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20)
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
STATIONARITY = st.builds(Stationarity, FLOATS, FLOATS, FLOATS)
COLUMNS = st.builds(ColumnSchema, TEXTS, st.just("float32"), SHAPES)
INTERVALS = st.builds(Interval, FLOATS, FLOATS, FLOATS)
AGREEMENTS = st.builds(Agreement, INTERVALS, INTERVALS, INTERVALS)
FINDINGS = st.builds(
    FidelityFinding,
    agreement=AGREEMENTS,
    strata=st.lists(st.builds(Stratum, FLOATS, FLOATS, AGREEMENTS), max_size=2).map(tuple),
    lds=st.none() | INTERVALS,
    seconds=FLOATS,
)
SETTINGS = st.builds(FidelitySettings, protocol=st.sampled_from(["loo", "lds"]), start=st.sampled_from([None, "warm"]))
DIAGNOSTICS = st.builds(
    Diagnostics,
    stationarity=STATIONARITY,
    damping=FLOATS,
    residual=FLOATS,
    seconds=FLOATS,
    fidelity=st.none() | FINDINGS,
)
SHARES = st.builds(FlipShare, value=FLOATS, low=FLOATS, high=FLOATS)
REPORTS = st.one_of(
    st.builds(
        DatasetReport,
        inputs=st.lists(COLUMNS, max_size=2).map(tuple),
        target=st.none() | COLUMNS,
        kind=st.just("dataset_report"),
    ),
    st.builds(
        ModelReport,
        inputs=st.lists(COLUMNS, max_size=2).map(tuple),
        parameters=st.lists(st.builds(ParameterInfo, shape=SHAPES), max_size=2).map(tuple),
        parity_max_abs=st.none() | FLOATS,
        stationarity=st.none() | STATIONARITY,
        kind=st.just("model_report"),
    ),
    st.builds(InfluenceReport, diagnostics=DIAGNOSTICS, kind=st.just("influence_report")),
    st.builds(
        PerturbationReport,
        diagnostics=DIAGNOSTICS,
        summary=st.builds(
            PerturbationSummary,
            flipped=SHARES,
            control=st.none() | SHARES,
            test_loss_before=FLOATS,
            test_loss_after=FLOATS,
        ),
        kind=st.just("perturbation_report"),
    ),
)
SPECS = st.one_of(
    st.builds(
        Influence,
        damping=st.none() | FLOATS,
        aggregate=st.none() | st.just("mean"),
        fidelity=st.none() | SETTINGS,
        kind=st.just("influence"),
    ),
    st.builds(Fidelity, settings=SETTINGS, damping=st.none() | FLOATS, kind=st.just("fidelity")),
    st.builds(Leverage, damping=st.none() | FLOATS, dfbeta=st.booleans(), kind=st.just("leverage")),
    st.builds(
        Perturb,
        attacks=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=3).map(tuple),
        settings=st.builds(
            AttackSettings,
            bound=st.sampled_from(["same_8bit", "linf", "l2"]),
            step=FLOATS,
            radius=st.none() | FLOATS,
            level=FLOATS,
            minimum=st.none() | st.lists(FLOATS, max_size=2).map(tuple),
            maximum=st.none() | st.lists(FLOATS, max_size=2).map(tuple),
            damping=st.none() | FLOATS,
        ),
        kind=st.just("perturb"),
    ),
    st.builds(
        Mislabels,
        damping=st.none() | FLOATS,
        flip=FLOATS,
        budgets=st.lists(FLOATS, max_size=2).map(tuple),
        known=st.none() | st.builds(KnownRows, st.just((1, 2)), st.just((0, 1))),
        kind=st.just("mislabels"),
    ),
    st.builds(SelfInfluence, damping=st.none() | FLOATS, kind=st.just("self_influence")),
    st.builds(
        Retrain,
        without=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=3).map(tuple),
        tolerance=st.none() | FLOATS,
        kind=st.just("retrain"),
    ),
    st.builds(
        GroupInfluence,
        reweight=st.lists(st.builds(Reweighting, factor=FLOATS), max_size=2).map(tuple),
        damping=st.none() | FLOATS,
        kind=st.just("group_influence"),
    ),
    st.builds(Compare, other=st.none() | TEXTS, damping=st.none() | FLOATS, kind=st.just("compare")),
    st.builds(ModelValidation, kind=st.just("model_validation")),
    st.builds(DatasetValidation, kind=st.just("dataset_validation")),
)
TIMES = st.datetimes(timezones=st.just(UTC))
JOBS = st.builds(
    Job,
    spec=SPECS,
    create_time=TIMES,
    start_time=st.none() | TIMES,
    end_time=st.none() | TIMES,
    timeout_seconds=FLOATS,
    state=st.sampled_from(JobState),
    progress=st.builds(Progress),
    report=st.none() | REPORTS,
    results=st.dictionaries(TEXTS, TEXTS, max_size=2),
    failure=st.none() | st.builds(Failure, metadata=st.dictionaries(TEXTS, TEXTS, max_size=2)),
)


@given(JOBS)
def test_every_job_round_trips(job):
    assert JOB.load(JOB.dump(job)) == job


@pytest.mark.parametrize(
    "file", [UploadedFile("a.csv", "ab"), LocatedFile("a.csv", "/data/a.csv", 2**40, 2**62, 2**62, 2**64 - 1)]
)
def test_a_file_stays_what_it_is(file):
    schema = SchemaSpec({"x": ("a",)}, groups=("site",), transforms={"x": TransformSpec((1, 2), 0.5, (0.1,), (2.0,))})
    source = FileSource("csv", (file,), schema, "file:///data/a.csv")
    assert RESOURCE_SPEC.load(RESOURCE_SPEC.dump(source)) == source


@given(st.binary(max_size=100))
def test_what_is_no_job_is_a_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011  the codec's word
        JOB.load(data)


def test_a_job_of_another_kind_is_refused():
    job = Job("t", "j", ModelValidation("m"), datetime.now(UTC), failure=Failure.of(Internal(Reason.INTERNAL, "x")))
    data = JOB.dump(replace(job, state=JobState.FAILED)).replace(b"model_validation", b"mining")
    with pytest.raises(ValueError, match="kind"):
        JOB.load(data)
