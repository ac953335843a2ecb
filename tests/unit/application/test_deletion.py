"""Deletion: who is asked, who is told, who is cancelled."""

from datetime import UTC, datetime

import pytest

from undue_service.adapters.memory import MemoryJobStore, MemoryRegistry, NoMetrics
from undue_service.application.changes import Changes
from undue_service.application.deletion import Deletions
from undue_service.application.jobs import Jobs
from undue_service.application.registration import Registrations
from undue_service.domain.errors import FailedPrecondition, NotFound, Reason
from undue_service.domain.jobs import JobState
from undue_service.domain.specs import (
    ArraysSource,
    DatasetReport,
    ModelReport,
    ModelSpec,
    ObjectiveSpec,
    SelfInfluence,
    TensorRef,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = ArraysSource({"x": TensorRef("float32", (4, 2), "d" * 64)})
REPORT = DatasetReport(4, (), None, has_ids=False, has_weights=False, digest="d")
MODEL_REPORT = ModelReport((), (), (), "float64", True, "", None, 0, None, ())


class Clock:
    def now(self):
        return NOW


class Counting(NoMetrics):
    def __init__(self):
        self.finished = []

    def job_finished(self, job):
        self.finished.append((job.id, job.state))


class Bench:
    def __init__(self):
        self.store, self.metrics = MemoryJobStore(), Counting()
        registry, changes = MemoryRegistry(self.store), Changes()
        self.registrations = Registrations(registry, changes, self.metrics, Clock())
        self.jobs = Jobs(self.store, self.registrations, changes, self.metrics, Clock())
        self.deletions = Deletions(registry, self.store, changes, self.metrics, Clock())
        self.data = self.made(self.registrations.create_dataset("t", "d", DATA, None), REPORT)
        spec = ModelSpec("onnx", "m" * 64, ObjectiveSpec("squared_error"))
        self.model = self.made(self.registrations.create_model("t", "m", spec, None), MODEL_REPORT)

    def made(self, registration, report):
        job = registration.validation.id
        self.store.update("t", job, lambda job: job.start(NOW).succeed(NOW, report, {}))
        return self.registrations.get("t", registration.collection, "name", registration.name)

    def job(self):
        return self.jobs.create("t", SelfInfluence("models/m", "datasets/d", "grad_dot"), 0, None)


@pytest.fixture
def bench():
    return Bench()


def test_what_nobody_names_goes(bench):
    bench.deletions.registration("t", "datasets", bench.data.name, bench.data.etag, force=False)
    with pytest.raises(NotFound):
        bench.registrations.get("t", "datasets", "name", bench.data.name)


def test_what_a_job_names_is_refused_by_its_name(bench):
    job = bench.job()
    for name in (bench.data.name, "datasets/d"):
        with pytest.raises(FailedPrecondition) as caught:
            bench.deletions.registration("t", "datasets", name, "", force=False)
        assert caught.value.reason is Reason.RESOURCE_IN_USE
        assert job.name in caught.value.message
        assert caught.value.metadata == {"users": job.name, "count": "1"}
    with pytest.raises(FailedPrecondition):
        bench.deletions.registration("t", "models", "models/m", "", force=False)


def test_force_cancels_what_has_not_ended_and_leaves_the_rest(bench):
    ended, running = bench.job(), bench.job()
    bench.store.update("t", ended.id, lambda job: job.cancel(NOW))
    bench.deletions.registration("t", "datasets", "datasets/d", "", force=True)
    assert bench.metrics.finished == [(running.id, JobState.CANCELLED)]
    assert bench.jobs.get("t", running.name).state is JobState.CANCELLED
    assert bench.jobs.get("t", ended.name).state is JobState.CANCELLED


def test_many_users_are_counted_and_some_named(bench):
    for _ in range(25):
        bench.job()
    with pytest.raises(FailedPrecondition) as caught:
        bench.deletions.registration("t", "datasets", "datasets/d", "", force=False)
    assert "and 15 more" in caught.value.message
    assert caught.value.metadata["count"] == "25"


def test_an_etag_of_something_else_is_refused(bench):
    seen = bench.registrations.create_dataset("t", "d", DATA, None)
    stale = seen.etag
    now = bench.made(seen, REPORT)
    assert now.etag != stale
    with pytest.raises(FailedPrecondition) as caught:
        bench.deletions.registration("t", "datasets", now.name, stale, force=True)
    assert caught.value.reason is Reason.ETAG_MISMATCH
    bench.deletions.registration("t", "datasets", now.name, now.etag, force=False)


def test_a_version_that_is_still_checked_goes_with_its_check(bench):
    made = bench.registrations.create_dataset("t", "e", DATA, None)
    bench.deletions.registration("t", "datasets", made.name, "", force=False)
    assert bench.metrics.finished == [(made.validation.id, JobState.CANCELLED)]


def test_a_job_that_has_not_ended_is_deleted_by_force_only(bench):
    job = bench.job()
    with pytest.raises(FailedPrecondition) as caught:
        bench.deletions.job("t", job.name, "", force=False)
    assert caught.value.reason is Reason.JOB_NOT_FINISHED
    bench.deletions.job("t", job.name, job.etag, force=True)
    assert bench.metrics.finished == [(job.id, JobState.CANCELLED)]
    with pytest.raises(NotFound):
        bench.jobs.get("t", job.name)


def test_a_validation_goes_with_what_it_validates(bench):
    with pytest.raises(FailedPrecondition) as caught:
        bench.deletions.job("t", bench.data.validation.name, "", force=True)
    assert caught.value.reason is Reason.RESOURCE_IN_USE
    assert bench.data.name in caught.value.message
