"""Requests into the domain, and back: what was asked for reads the same in the answer."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue.v1 import datasets_pb2, jobs_pb2, models_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.jobs import Job
from undue_service.domain.specs import Influence, Measurement, SelfInfluence
from undue_service.transport import requests, responses

NAMES = st.text(min_size=1, max_size=20)
POSITIVE = st.floats(0, 1e300)
COMMON = {
    "model": NAMES,
    "train": NAMES,
    "method": NAMES,
    "damping": st.none() | POSITIVE,
    "top_k": st.none() | st.integers(1, 1000),
    "leverage_correction": st.none() | st.booleans(),
    "tolerance": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    "max_iterations": st.none() | st.integers(1, 2**31 - 1),
}
INFLUENCE = st.builds(
    Influence,
    **COMMON,
    test=NAMES,
    measurement=st.sampled_from(get_args(Measurement)),
    rows=st.lists(st.integers(0, 2**62), max_size=5).map(tuple),
    kind=st.just("influence"),
)
SELF_INFLUENCE = st.builds(SelfInfluence, **COMMON, kind=st.just("self_influence"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def digest(field, content):
    return f"digest of {content!r}"


@given(INFLUENCE | SELF_INFLUENCE, st.floats(0, 1e8))
def test_a_job_spec_round_trips(spec, timeout):
    message = responses.job(Job("t", "j", spec, NOW, timeout))
    assert requests.job_spec(jobs_pb2.CreateJobRequest(job=message)) == (spec, timeout)


INFLUENCE_OK = {"model": "m", "train": "a", "test": "b", "method": "exact"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": ""}, "job.influence.model"),
        ({"train": ""}, "job.influence.train"),
        ({"test": ""}, "job.influence.test"),
        ({"method": ""}, "job.influence.method"),
        ({"rows": [1, -1]}, "job.influence.rows"),
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
        requests.job_spec(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(influence=spec)))
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
    with pytest.raises(InvalidArgument):
        requests.job_spec(jobs_pb2.CreateJobRequest(job=job))


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
        (a_tensor(shape=[-2, -3]), "shape"),
        (a_tensor(shape=[2**40, 2**40]), "shape"),
        (a_tensor(data=bytes(23)), "data"),
        (a_tensor(data=None), "content"),
    ],
)
def test_a_tensor_that_lies_is_refused(tensor, field):
    arrays = datasets_pb2.ArraysSource(inputs={"x": tensor})
    request = datasets_pb2.CreateDatasetRequest(dataset=datasets_pb2.Dataset(arrays=arrays))
    with pytest.raises(InvalidArgument) as caught:
        requests.data_source(request, digest)
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
    ],
)
def test_a_model_that_lacks_something_is_refused(model, field):
    whole = {"upload": "uploads/x", "objective": models_pb2.Objective(loss=1), "format": models_pb2.Model.FORMAT_ONNX}
    request = models_pb2.CreateModelRequest(model_id="m", model=models_pb2.Model(**(whole | model)))
    with pytest.raises(InvalidArgument) as caught:
        requests.model_spec(request, digest)
    assert caught.value.violations[0].field == field
