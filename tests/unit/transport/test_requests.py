"""Requests into the domain, and back: what was asked for reads the same in the answer."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue.v1 import datasets_pb2, edits_pb2, jobs_pb2, models_pb2, tensors_pb2, uploads_pb2
from undue_service.domain.choices import Measurement
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Job
from undue_service.domain.retraining import Retrain
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import ObjectiveSpec
from undue_service.transport import job_responses, requests, responses
from undue_service.transport.validation import check

NAMES = st.text(min_size=1, max_size=20)
POSITIVE = st.floats(0, 1e300)
COMMON = {
    "model": NAMES,
    "train": NAMES,
    "method": st.just("") | NAMES,
    "damping": st.none() | POSITIVE,
    "top_k": st.none() | st.integers(1, 1000),
    "leverage_correction": st.none() | st.booleans(),
    "tolerance": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    "max_iterations": st.none() | st.integers(1, 2**31 - 1),
    "parameters": st.lists(NAMES, max_size=3).map(tuple),
    "rank": st.none() | st.integers(1, 2**31 - 1),
    "normalization": st.none() | st.sampled_from(["theta", "loss"]),
    "ensemble": st.booleans(),
    "seed": st.integers(0, 2**63 - 1),
}
INFLUENCE = st.builds(
    Influence,
    **COMMON,
    test=NAMES,
    measurement=st.sampled_from(get_args(Measurement)),
    rows=st.lists(st.integers(0, 2**62), max_size=5).map(tuple),
    aggregate=st.none() | st.just("mean"),
    kind=st.just("influence"),
)
SELF_INFLUENCE = st.builds(SelfInfluence, **COMMON, kind=st.just("self_influence"))
ROWS = st.lists(st.integers(0, 2**62), max_size=5).map(tuple)
ROW_SETS = st.lists(st.integers(0, 2**62), min_size=1, max_size=4, unique=True).map(tuple)
RETRAIN = st.builds(
    Retrain,
    model=NAMES,
    train=NAMES,
    test=NAMES,
    without=st.lists(
        st.lists(st.integers(0, 2**62), min_size=1, max_size=4, unique=True).map(tuple), min_size=1, max_size=3
    ).map(tuple),
    rows=ROWS,
    measurement=st.sampled_from(get_args(Measurement)),
    tolerance=COMMON["tolerance"],
    max_iterations=COMMON["max_iterations"],
    kind=st.just("retrain"),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def digest(field, content):
    return f"digest of {content!r}"


def read(convert, request, *more):
    """Do what the service does with a request."""
    check(request)
    return convert(request, *more)


@given(INFLUENCE | SELF_INFLUENCE | RETRAIN, st.floats(0, 1e8))
def test_a_job_spec_round_trips(spec, timeout):
    message = job_responses.job(Job("t", "j", spec, NOW, timeout))
    request = jobs_pb2.CreateJobRequest(job=message)
    assert read(requests.job_spec, request) == (spec, timeout)


INFLUENCE_OK = {"model": "m", "train": "a", "test": "b", "method": "exact"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": ""}, "job.influence.model"),
        ({"train": ""}, "job.influence.train"),
        ({"test": ""}, "job.influence.test"),
        ({"parameters": [""]}, "job.influence.parameters[0]"),
        ({"parameters": ["p" * 513]}, "job.influence.parameters[0]"),
        ({"parameters": ["p"] * 1001}, "job.influence.parameters"),
        ({"rank": 0}, "job.influence.rank"),
        ({"normalization": 0}, "job.influence.normalization"),
        ({"normalization": 9}, "job.influence.normalization"),
        ({"seed": -1}, "job.influence.seed"),
        ({"rows": [1, -1]}, "job.influence.rows[1]"),
        ({"damping": -1.0}, "job.influence.damping"),
        ({"damping": float("nan")}, "job.influence.damping"),
        ({"damping": float("inf")}, "job.influence.damping"),
        ({"top_k": 0}, "job.influence.top_k"),
        ({"top_k": 1001}, "job.influence.top_k"),
        ({"rows": range(10_001)}, "job.influence.rows"),
        ({"tolerance": 0.0}, "job.influence.tolerance"),
        ({"tolerance": 1.0}, "job.influence.tolerance"),
        ({"tolerance": float("nan")}, "job.influence.tolerance"),
        ({"max_iterations": 0}, "job.influence.max_iterations"),
        ({"measurement": 77}, "job.influence.measurement"),
    ],
)
def test_a_wrong_field_is_named(change, field):
    spec = jobs_pb2.InfluenceSpec(**(INFLUENCE_OK | change))
    with pytest.raises(InvalidArgument) as caught:
        check(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(influence=spec)))
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    "job",
    [
        jobs_pb2.Job(),
        jobs_pb2.Job(model_validation=jobs_pb2.ModelValidationSpec(model="models/m/versions/1")),
        jobs_pb2.Job(influence=jobs_pb2.InfluenceSpec(**INFLUENCE_OK), timeout_seconds=-1),
        jobs_pb2.Job(influence=jobs_pb2.InfluenceSpec(**INFLUENCE_OK), timeout_seconds=1e12),
    ],
)
def test_a_job_that_nobody_may_ask_for_is_refused(job):
    request = jobs_pb2.CreateJobRequest(job=job)
    with pytest.raises(InvalidArgument):
        read(requests.job_spec, request)


def a_tensor(**changes):
    return tensors_pb2.Tensor(
        **({"dtype": tensors_pb2.DATA_TYPE_FLOAT32, "shape": [2, 3], "data": bytes(24)} | changes)
    )


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (a_tensor(dtype=0), "dtype"),
        (a_tensor(dtype=99), "dtype"),
        (a_tensor(shape=[]), "shape"),
        (a_tensor(shape=[-2, -3]), "shape[0]"),
        (a_tensor(shape=[2**40, 2**40]), "shape"),
        (a_tensor(data=bytes(23)), "data"),
        (a_tensor(data=None), "content"),
    ],
)
def test_a_tensor_that_lies_is_refused(tensor, field):
    arrays = datasets_pb2.ArraysSource(inputs={"x": tensor})
    request = datasets_pb2.CreateDatasetRequest(dataset_id="d", dataset=datasets_pb2.Dataset(arrays=arrays))
    with pytest.raises(InvalidArgument) as caught:
        read(requests.data_source, request, digest)
    assert caught.value.violations[0].field == f"dataset.arrays.inputs[x].{field}"


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"upload": ""}, "model.upload"),
        ({"objective": None}, "model.objective"),
        ({"format": 0}, "model.format"),
        ({"objective": models_pb2.Objective(loss=0)}, "model.objective.loss"),
        ({"objective": models_pb2.Objective(loss=1, l2=-1)}, "model.objective.l2"),
        ({"objective": models_pb2.Objective(loss=1, l2=float("nan"))}, "model.objective.l2"),
        ({"objective": models_pb2.Objective(loss=4, temperature=-1)}, "model.objective.temperature"),
        ({"objective": models_pb2.Objective(loss=4, temperature=float("inf"))}, "model.objective.temperature"),
    ],
)
def test_a_model_that_lacks_something_is_refused(model, field):
    whole = {"upload": "uploads/x", "objective": models_pb2.Objective(loss=1), "format": models_pb2.Model.FORMAT_ONNX}
    request = models_pb2.CreateModelRequest(model_id="m", model=models_pb2.Model(**(whole | model)))
    with pytest.raises(InvalidArgument) as caught:
        check(request)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(("loss", "temperature"), [(1, 0.1), (2, 1e-9), (4, 0.0)])
def test_a_temperature_is_the_smooth_hinges_alone(loss, temperature):
    objective = models_pb2.Objective(loss=loss, temperature=temperature)
    whole = models_pb2.Model(upload="uploads/x", objective=objective, format=models_pb2.Model.FORMAT_ONNX)
    request = models_pb2.CreateModelRequest(model_id="m", model=whole)
    check(request)
    with pytest.raises(InvalidArgument, match="temperature") as caught:
        requests.model_spec(request, lambda _, name: name)
    assert caught.value.violations[0].field == "model.objective.temperature"


def test_a_smooth_hinge_goes_there_and_back():
    objective = models_pb2.Objective(loss=4, l2=0.5, l2_exclude=["bias"], temperature=0.25)
    whole = models_pb2.Model(upload="uploads/x", objective=objective, format=models_pb2.Model.FORMAT_ONNX)
    spec = requests.model_spec(models_pb2.CreateModelRequest(model_id="m", model=whole), lambda _, name: name)
    assert spec.objective == ObjectiveSpec("smooth_hinge", 0.5, ("bias",), 0.25)
    assert responses.objective(spec.objective) == objective


def test_every_wrong_field_is_told_at_once():
    spec = jobs_pb2.InfluenceSpec(model="m", test="b", damping=-1.0, top_k=0)
    with pytest.raises(InvalidArgument) as caught:
        check(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(influence=spec), request_id="no uuid"))
    assert [one.field for one in caught.value.violations] == [
        "job.influence.train",
        "job.influence.damping",
        "job.influence.top_k",
        "request_id",
    ]


@pytest.mark.parametrize("name", ["", "A", "1a", "a-", "a_b", "a" * 64, "a/b", "a\n", "ä"])
def test_a_name_that_cannot_be_one_says_so(name):
    arrays = datasets_pb2.ArraysSource(inputs={"x": a_tensor()})
    request = datasets_pb2.CreateDatasetRequest(dataset_id=name, dataset=datasets_pb2.Dataset(arrays=arrays))
    with pytest.raises(InvalidArgument) as caught:
        check(request)
    assert caught.value.reason is Reason.INVALID_NAME
    assert caught.value.violations[0].field == "dataset_id"


RULED = [
    uploads_pb2.CreateUploadRequest(upload=uploads_pb2.Upload(size_bytes=-1, sha256="0" * 64)),
    uploads_pb2.CreateUploadRequest(upload=uploads_pb2.Upload(size_bytes=1, sha256="x")),
    uploads_pb2.CreateUploadRequest(upload=uploads_pb2.Upload(size_bytes=1, sha256="A" * 64)),
    uploads_pb2.CreateUploadRequest(),
    uploads_pb2.WriteUploadRequest(offset=-1, sha256=bytes(32)),
    uploads_pb2.WriteUploadRequest(sha256=bytes(31)),
    jobs_pb2.ListJobsRequest(page_size=-1),
    jobs_pb2.GetJobRequest(),
    datasets_pb2.ReadRowsRequest(name="datasets/x", rows=[]),
    datasets_pb2.ReadRowsRequest(name="datasets/x", rows=range(1001)),
    jobs_pb2.CreateJobRequest(
        job=jobs_pb2.Job(
            retrain=jobs_pb2.RetrainSpec(
                model="m", train="a", test="b", counterfactuals=[edits_pb2.Edit(reweighted=[1], weights=[-1.0])]
            )
        )
    ),
]


@pytest.mark.parametrize("request_", RULED, ids=lambda one: one.DESCRIPTOR.name)
def test_other_rules(request_):
    with pytest.raises(InvalidArgument):
        check(request_)
