"""Deletion: who is asked, who is told, who is cancelled."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from undue_service.adapters.artifacts import LocalArtifacts, LocalStaging
from undue_service.adapters.memory import (
    MemoryInventory,
    MemoryJobStore,
    MemoryLocator,
    MemoryRegistry,
    MemoryUploadStore,
    NoMetrics,
)
from undue_service.application.changes import Changes
from undue_service.application.deletion import Deletions
from undue_service.application.jobs import Jobs
from undue_service.application.registration import Registrations
from undue_service.application.retention import RELEASE_GRACE, Retention
from undue_service.application.uploads import Uploads
from undue_service.domain.errors import FailedPrecondition, NotFound, Reason
from undue_service.domain.jobs import JobState
from undue_service.domain.reports import ColumnSchema, DatasetReport, ModelReport
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

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT = DatasetReport(4, (), ColumnSchema("y", "int64", ()), has_ids=False, has_weights=False, digest="d")
MODEL_REPORT = ModelReport((), (), (), "float64", True, "", None, 0, None, ())


class Clock:
    def __init__(self):
        self.ahead = timedelta()

    def now(self):
        return datetime.now(UTC) + self.ahead  # the files bear the machine's times


class Counting(NoMetrics):
    def __init__(self):
        self.finished = []

    def job_finished(self, job):
        self.finished.append((job.id, job.state))


class Bench:
    def __init__(self, root):
        self.store, self.metrics, self.clock = MemoryJobStore(), Counting(), Clock()
        registry, changes, uploads = MemoryRegistry(self.store), Changes(), MemoryUploadStore()
        self.artifacts, staging = LocalArtifacts(root), LocalStaging(root)
        inventory = MemoryInventory(self.store, registry, uploads)
        self.retention = Retention(inventory, self.artifacts, staging, self.clock, timedelta(hours=24))
        self.uploads = Uploads(uploads, self.artifacts, staging, self.clock, 1 << 20)
        self.registrations = Registrations(registry, self.artifacts, changes, self.metrics, self.clock, MemoryLocator())
        self.jobs = Jobs(self.store, self.registrations, changes, self.metrics, self.clock)
        self.deletions = Deletions(registry, self.store, self.retention, changes, self.metrics, self.clock)
        self.digest = self.uploads.keep("t", b"the rows")
        self.source = ArraysSource({"x": TensorRef("int8", (4, 2), self.digest)})
        self.data = self.made(self.registrations.create_dataset("t", "d", self.source, None), REPORT)
        spec = ModelSpec("onnx", self.uploads.keep("t", b"the model"), ObjectiveSpec("squared_error"))
        self.model = self.made(self.registrations.create_model("t", "m", spec, None), MODEL_REPORT)

    def made(self, registration, report):
        job = registration.validation.id
        self.store.update("t", job, lambda job: job.start(NOW).succeed(NOW, report, {}))
        return self.registrations.get("t", registration.collection, "name", registration.name)

    def job(self):
        return self.jobs.create("t", SelfInfluence("models/m", "datasets/d", "grad_dot"), 0, None)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


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
    seen = bench.registrations.create_dataset("t", "d", bench.source, None)
    stale = seen.etag
    now = bench.made(seen, REPORT)
    assert now.etag != stale
    with pytest.raises(FailedPrecondition) as caught:
        bench.deletions.registration("t", "datasets", now.name, stale, force=True)
    assert caught.value.reason is Reason.ETAG_MISMATCH
    bench.deletions.registration("t", "datasets", now.name, now.etag, force=False)


def test_a_version_that_is_still_checked_goes_with_its_check(bench):
    made = bench.registrations.create_dataset("t", "e", bench.source, None)
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


def test_bytes_go_when_the_last_that_uses_them_goes(bench):
    again = bench.made(bench.registrations.create_dataset("t", "e", bench.source, None), REPORT)
    bench.clock.ahead = 2 * RELEASE_GRACE
    bench.deletions.registration("t", "datasets", "datasets/d", "", force=False)
    assert bench.artifacts.contains("t", bench.digest)
    bench.deletions.registration("t", "datasets", again.name, "", force=False)
    assert not bench.artifacts.contains("t", bench.digest)


def test_weights_go_with_the_last_model_that_has_them(bench):
    shared, own, start = (bench.uploads.keep("t", text) for text in (b"epoch 1", b"epoch 2", b"epoch 0"))
    recipe = TrainingSpec("sgd", 0.1, 1, init=WeightsFile("safetensors", start))

    def register(name, *digests, training=None):
        checkpoints = tuple(CheckpointSpec(WeightsFile("safetensors", digest), 0.1) for digest in digests)
        spec = replace(bench.model.spec, training=training, checkpoints=checkpoints)
        return bench.made(bench.registrations.create_model("t", name, spec, None), MODEL_REPORT)

    def kept():
        return [bench.artifacts.contains("t", digest) for digest in (bench.model.spec.digest, shared, own, start)]

    first, second = register("a", shared, own, shared, training=recipe), register("b", shared)
    bench.clock.ahead = 2 * RELEASE_GRACE
    assert bench.retention.release("t", (), NOW) == 0
    assert kept() == [True, True, True, True]
    bench.deletions.registration("t", "models", first.name, "", force=False)
    assert kept() == [True, True, False, False]
    bench.deletions.registration("t", "models", bench.model.name, "", force=False)
    assert kept() == [True, True, False, False]
    bench.deletions.registration("t", "models", second.name, "", force=False)
    assert kept() == [False, False, False, False]


def test_weights_that_are_not_there_are_named_when_a_model_is_registered(bench):
    for part in (
        {"checkpoints": (CheckpointSpec(WeightsFile("pt2", "0" * 64), 0.1),)},
        {"training": TrainingSpec("sgd", 0.1, 1, init=WeightsFile("pt2", "0" * 64))},
    ):
        with pytest.raises(FailedPrecondition, match="0" * 64) as caught:
            bench.registrations.create_model("t", "n", replace(bench.model.spec, **part), None)
        assert caught.value.reason is Reason.UPLOAD_INCOMPLETE


def test_an_upload_that_was_used_does_not_keep_what_is_deleted(bench):
    bench.uploads.create("t", len(b"the rows"), bench.digest, None)
    made = bench.made(bench.registrations.create_dataset("t", "f", bench.source, None), REPORT)
    bench.deletions.registration("t", "datasets", "datasets/d", "", force=False)
    bench.deletions.registration("t", "datasets", made.name, "", force=False)
    assert bench.artifacts.contains("t", bench.digest)  # too young to be sure
    bench.clock.ahead = 2 * RELEASE_GRACE
    assert bench.retention.release("t", (), NOW) == 1
    assert not bench.artifacts.contains("t", bench.digest)


def test_an_upload_that_is_yet_to_be_used_stays(bench):
    """Somebody registers the next version with the same bytes, slowly, while the version before it is deleted."""
    upload = bench.uploads.create("t", len(b"the rows"), bench.digest, None)
    bench.clock.ahead = 2 * RELEASE_GRACE
    bench.deletions.registration("t", "datasets", "datasets/d", "", force=False)
    bench.retention.release("t", (), NOW)
    assert bench.uploads.get("t", upload.name).finished
    assert bench.registrations.create_dataset("t", "d", bench.source, None).version == 2


def test_the_result_goes_with_its_job(bench):
    kept = bench.uploads.keep("t", b"the scores")
    job = bench.job()
    bench.store.update("t", job.id, lambda job: job.start(NOW).succeed(NOW, REPORT, {"scores": kept}))
    bench.clock.ahead = 2 * RELEASE_GRACE
    bench.deletions.job("t", job.name, "", force=False)
    assert not bench.artifacts.contains("t", kept)
