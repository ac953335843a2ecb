"""Jobs and tasks with settings of methods, recipes and checkpoints as JSON, and those that were stored before."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Job, Progress
from undue_service.domain.reports import (
    CheckpointReport,
    Diagnostics,
    InfluenceReport,
    ModelReport,
    Stationarity,
    TaskResult,
)
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import (
    ArraysSource,
    CheckpointSpec,
    ModelSpec,
    ObjectiveSpec,
    TensorRef,
    TrainingSpec,
    WeightsFile,
)
from undue_service.domain.tasks import InfluenceTask, ModelTask
from undue_service.domain.validations import ModelValidation
from undue_service.wire.codec import JOB, TASK, TASK_RESULT

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATES = st.floats(1e-300, 1e300)
SETTINGS = {
    "model": st.text(max_size=5),
    "train": st.text(max_size=5),
    "method": st.text(max_size=5),
    "parameters": st.lists(st.text(max_size=5), max_size=3).map(tuple),
    "rank": st.none() | st.integers(1, 2**31 - 1),
    "normalization": st.none() | st.sampled_from(["theta", "loss"]),
    "ensemble": st.booleans(),
    "seed": st.integers(0, 2**63 - 1),
}
INFLUENCE = st.builds(Influence, test=st.text(max_size=5), kind=st.just("influence"), **SETTINGS)
SELF_INFLUENCE = st.builds(SelfInfluence, kind=st.just("self_influence"), **SETTINGS)
PROGRESS = st.builds(Progress, st.text(max_size=5), st.integers(0, 9), st.integers(0, 9), st.floats(0, 1e300))
WEIGHTS = st.builds(WeightsFile, st.sampled_from(["safetensors", "onnx", "pt2"]), st.text(max_size=5))
TRAININGS = st.builds(
    TrainingSpec,
    schedule=st.none() | st.sampled_from(["linear", "cosine"]),
    betas=st.tuples(RATES, RATES),
    batch_size=st.none() | st.integers(1, 9),
    lr=RATES,
    init=st.none() | st.just("torch") | WEIGHTS,
)
MODELS = st.builds(
    ModelSpec,
    objective=st.just(ObjectiveSpec("cross_entropy")),
    training=st.none() | TRAININGS,
    checkpoints=st.lists(st.builds(CheckpointSpec, WEIGHTS, RATES), max_size=3).map(tuple),
)
SOURCE = ArraysSource({"x": TensorRef("int8", (4,), "d")})
FIT = Stationarity(1.0, 0.5, 2.0)
AT_CHECKPOINTS = (CheckpointReport(None), CheckpointReport(FIT))
MODEL_REPORT = ModelReport((), ("y",), (), "float64", True, "", None, 0, FIT, (), checkpoints=AT_CHECKPOINTS)
DIAGNOSTICS = Diagnostics(
    "", "removal", "exact", 0.0, "given", False, "", "", 0.0, FIT, "", 0, "float64", "cpu", {"model": "m"}, 1.0
)


@given(INFLUENCE | SELF_INFLUENCE, PROGRESS)
def test_a_job_round_trips(spec, progress):
    job = Job("t", "j", spec, NOW, progress=progress)
    assert JOB.load(JOB.dump(job)) == job


@given(MODELS, INFLUENCE)
def test_a_task_round_trips(model, spec):
    digests = {"model": "m", "checkpoints": "c"}
    for task in (ModelTask(model, None), InfluenceTask(spec, model, SOURCE, SOURCE, digests)):
        assert TASK.load(TASK.dump(task)) == task


def test_a_report_of_checkpoints_round_trips():
    assert TASK_RESULT.load(TASK_RESULT.dump(TaskResult(MODEL_REPORT))).report == MODEL_REPORT


def without(data, *paths):
    stored = json.loads(data)
    for path in paths:
        *to, last = path.split(".")
        place = stored
        for key in to:
            place = place[key]
        del place[last]
    return json.dumps(stored)


NEW_SETTINGS = [f"spec.{name}" for name in ("parameters", "rank", "normalization", "ensemble", "seed")]


@pytest.mark.parametrize("spec", [Influence("m", "a", "b", method="cg"), SelfInfluence("m", "a", "grad_dot")])
def test_a_job_of_before_the_settings_still_opens(spec):
    job = Job("t", "j", spec, NOW, report=InfluenceReport(DIAGNOSTICS, 1, 4))
    old = without(JOB.dump(job), *NEW_SETTINGS, "progress.rate", "report.diagnostics.fidelity")
    assert JOB.load(old) == job


def test_a_validation_of_before_checkpoints_still_opens():
    job = Job("t", "j", ModelValidation("models/m/versions/1"), NOW, report=replace(MODEL_REPORT, checkpoints=()))
    assert JOB.load(without(JOB.dump(job), "report.checkpoints", "progress.rate")) == job
