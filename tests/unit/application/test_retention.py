"""Cleaning up, over real folders and the stores in memory."""

import asyncio
import hashlib
import os
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
from undue_service.application import retention as module
from undue_service.application.changes import Changes
from undue_service.application.registration import Registrations
from undue_service.application.retention import EVERY, GRACE, RELEASE_GRACE, REQUEST_TTL, Retention, Swept
from undue_service.application.uploads import Uploads
from undue_service.domain.errors import FailedPrecondition, NotFound, Reason, Unavailable
from undue_service.domain.resources import RequestKey
from undue_service.domain.specs import (
    ArraysSource,
    CheckpointSpec,
    ModelSpec,
    ObjectiveSpec,
    TensorRef,
    TrainingSpec,
    WeightsFile,
)

TTL = timedelta(hours=24)
NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)


class Clock:
    """The real time, and what the test adds: the files bear the machine's times."""

    def __init__(self):
        self.ahead = timedelta()

    def now(self):
        return datetime.now(UTC) + self.ahead


class Bench:
    def __init__(self, root):
        self.clock, self.jobs, self.store = Clock(), MemoryJobStore(), MemoryUploadStore()
        self.artifacts, self.staging, self.root = LocalArtifacts(root), LocalStaging(root), root
        registry = MemoryRegistry(self.jobs)
        self.inventory = MemoryInventory(self.jobs, registry, self.store)
        self.uploads = Uploads(self.store, self.artifacts, self.staging, self.clock, 1 << 20)
        self.registrations = Registrations(
            registry, self.artifacts, Changes(), NoMetrics(), self.clock, MemoryLocator()
        )
        self.retention = Retention(self.inventory, self.artifacts, self.staging, self.clock, TTL)

    def upload(self, data, sent=None, request=None):
        upload = self.uploads.create("t", len(data), digest(data), request)
        part = data[:sent]
        self.uploads.writer("t", upload.name)(0, part, hashlib.sha256(part).digest())
        return upload

    def register(self, data):
        source = ArraysSource({"x": TensorRef("int8", (len(data),), digest(data))})
        return self.registrations.create_dataset("t", "d", source, None)

    def has(self, data):
        return self.artifacts.contains("t", digest(data))

    def staged(self):
        return [path for path in (self.root / "staging").rglob("*") if path.is_file()]

    def succeed(self, results):
        lease = self.jobs.lease(self.clock.now(), self.clock.now())
        self.jobs.update("t", lease.job.id, lambda job: job.succeed(self.clock.now(), None, results))
        return lease.job


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_an_upload_that_does_not_move_is_dropped_with_its_bytes(bench):
    request = RequestKey("6f0c8f1e-0000-4000-8000-000000000000", "a")
    upload = bench.upload(b"abcdef", 3, request)
    bench.clock.ahead = TTL - 10 * SECOND
    assert bench.retention.sweep() == Swept()
    assert bench.uploads.received(bench.uploads.get("t", upload.name)) == 3
    bench.clock.ahead = TTL + 10 * SECOND
    assert bench.retention.sweep() == Swept(uploads=1)
    assert bench.staged() == []
    with pytest.raises(NotFound):
        bench.uploads.get("t", upload.name)
    assert bench.uploads.create("t", 6, digest(b"abcdef"), request).id != upload.id


def test_checkpoints_stay_as_long_as_their_model(bench):
    files = [b"model", b"epoch", b"start"]
    for file in files:
        bench.upload(file)
    bench.upload(b"nobody's epoch")
    model, epoch, start = (WeightsFile("safetensors", digest(file)) for file in files)
    recipe = TrainingSpec("sgd", 0.1, 1, init=start)
    spec = ModelSpec("pt2", model.digest, ObjectiveSpec("squared_error"), training=recipe)
    spec = replace(spec, checkpoints=(CheckpointSpec(epoch, 0.1),))
    bench.registrations.create_model("t", "m", spec, None)
    bench.clock.ahead = TTL + GRACE + 10 * SECOND
    bench.retention.sweep()
    bench.clock.ahead += TTL + GRACE
    bench.retention.sweep()
    assert [bench.has(file) for file in [*files, b"nobody's epoch"]] == [True, True, True, False]


def test_an_upload_that_moves_is_kept(bench):
    upload = bench.upload(b"abcdef", 3)
    bench.clock.ahead = TTL + 10 * SECOND
    os.utime(bench.staging.path("t", upload.id), (bench.clock.now().timestamp(),) * 2)
    assert bench.retention.sweep() == Swept()


def test_a_finished_upload_that_nobody_used_goes_with_its_artifact(bench):
    bench.upload(b"abc")
    bench.clock.ahead = TTL - 10 * SECOND
    assert bench.retention.sweep() == Swept()
    assert bench.has(b"abc")
    bench.clock.ahead = TTL + 10 * SECOND
    assert bench.retention.sweep() == Swept(uploads=1, artifacts=1)
    assert not bench.has(b"abc")
    assert bench.retention.sweep() == Swept()


def test_what_a_version_or_a_result_refers_to_is_kept(bench):
    for data in (b"data", b"result", b"nothing's"):
        bench.uploads.keep("t", data)
    bench.register(b"data")
    bench.succeed({"explanations": digest(b"result")})
    bench.clock.ahead = timedelta(days=400)
    assert bench.retention.sweep() == Swept(artifacts=1)
    assert bench.has(b"data")
    assert bench.has(b"result")


def test_what_nothing_refers_to_yet_has_its_grace(bench):
    bench.uploads.keep("t", b"abc")
    bench.staging.append("t", "inline", 0, b"of a request that died")
    bench.clock.ahead = GRACE - 10 * SECOND
    assert bench.retention.sweep() == Swept()
    bench.clock.ahead = GRACE + 10 * SECOND
    assert bench.retention.sweep() == Swept(staged=1, artifacts=1)
    assert bench.staged() == []


def test_what_a_dead_service_left_has_none(bench):
    bench.uploads.keep("t", b"of the dead")
    bench.staging.append("t", "inline", 0, b"of the dead too")
    bench.upload(b"abcdef", 3)
    since = datetime.now(UTC)
    os.utime(bench.artifacts.path("t", digest(b"of the dead")), (since.timestamp() - 1,) * 2)
    os.utime(bench.staging.path("t", "inline"), (since.timestamp() - 1,) * 2)
    bench.uploads.keep("t", b"of the living")
    assert bench.retention.sweep(alone_since=since) == Swept(staged=1, artifacts=1)
    assert bench.has(b"of the living")
    assert len(bench.staged()) == 1, "the open upload's"


def test_old_requests_are_forgotten(bench):
    bench.jobs.requests.remember("t", RequestKey("a", "b"), "c")
    bench.clock.ahead = REQUEST_TTL - SECOND
    assert bench.retention.sweep() == Swept()
    bench.clock.ahead = REQUEST_TTL + SECOND
    assert bench.retention.sweep() == Swept(requests=1)


def test_released_bytes_go_unless_something_else_refers_to_them(bench):
    for data in (b"mine", b"shared"):
        bench.uploads.keep("t", data)
    bench.register(b"shared")
    bench.clock.ahead = RELEASE_GRACE + SECOND
    assert bench.retention.release("t", [digest(b"mine"), digest(b"shared"), digest(b"never there")], NOW) == 1
    assert not bench.has(b"mine")
    assert bench.has(b"shared")


def test_what_was_released_too_young_goes_a_minute_later(bench, monkeypatch):
    monkeypatch.setattr(module, "RELEASE_GRACE", timedelta(seconds=0.1))
    bench.uploads.keep("t", b"abc")
    bench.clock.ahead = -SECOND
    assert bench.retention.release("t", [digest(b"abc")], NOW) == 0
    bench.clock.ahead = SECOND

    async def story():
        running = asyncio.create_task(bench.retention.run(None))
        async with asyncio.timeout(5):
            while bench.has(b"abc"):
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


def test_it_sweeps_every_hour_and_a_failing_store_does_not_end_that(bench, monkeypatch):
    monkeypatch.setattr(module, "RELEASE_GRACE", timedelta(seconds=0.01))
    sweeps, real = [], bench.retention.sweep

    def sweep(alone_since=None):
        sweeps.append(alone_since)
        if len(sweeps) < 3:
            raise (Unavailable(Reason.STORAGE_UNAVAILABLE, "away"), ValueError("a row that cannot be read"))[
                len(sweeps) - 1
            ]
        return real(alone_since)

    monkeypatch.setattr(bench.retention, "sweep", sweep)
    since = datetime.now(UTC)

    async def story():
        running = asyncio.create_task(bench.retention.run(since))
        for number in (1, 2, 3):
            async with asyncio.timeout(5):
                while len(sweeps) < number:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert len(sweeps) == number
            bench.clock.ahead += EVERY
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())
    assert sweeps[0] == since
    assert sweeps[1:3] == [None, None]


@pytest.mark.parametrize("crash_at", range(6))
def test_a_sweep_that_dies_in_the_middle_harms_nothing(bench, monkeypatch, crash_at):
    upload = bench.upload(b"abandoned", 3)
    bench.upload(b"finished")
    bench.staging.append("t", "inline", 0, b"lost")
    for data in (b"old", b"used"):
        bench.uploads.keep("t", data)
    version = bench.register(b"used")
    bench.clock.ahead = TTL + 10 * SECOND
    steps = iter(range(100))

    def dying(function):
        def call(*arguments):
            if next(steps) == crash_at:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (bench.inventory, "drop_upload"),
            (bench.staging, "discard"),
            (bench.artifacts, "remove"),
            (bench.inventory, "drop_requests"),
        ):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            bench.retention.sweep()
    bench.retention.sweep()
    assert [one.key for one in bench.artifacts.held()] == [version.spec.inputs["x"].digest]
    assert bench.staged() == []
    assert bench.inventory.uploads() == ()
    with pytest.raises(NotFound):
        bench.uploads.get("t", upload.name)


def test_a_version_of_bytes_that_are_gone_is_refused(bench):
    bench.uploads.keep("t", b"abc")
    bench.clock.ahead = GRACE + 10 * SECOND
    bench.retention.sweep()
    with pytest.raises(FailedPrecondition) as caught:
        bench.register(b"abc")
    assert caught.value.reason is Reason.UPLOAD_INCOMPLETE
    assert caught.value.metadata == {"sha256": digest(b"abc")}
    with pytest.raises(NotFound):
        bench.registrations.get("t", "datasets", "name", "datasets/d")


def test_a_sweep_spares_what_is_being_registered(bench, monkeypatch):
    """A sweep looks for references, a version is registered, and the sweep goes on to remove."""
    bench.uploads.keep("t", b"abc")
    place = bench.artifacts.path("t", digest(b"abc"))
    os.utime(place, (0, 0))
    real = bench.inventory.referenced

    def referenced():
        found = real()
        bench.register(b"abc")
        return found

    monkeypatch.setattr(bench.inventory, "referenced", referenced)
    assert bench.retention.sweep() == Swept()
    assert place.exists()


def test_a_sweep_spares_what_is_declared_again(bench, monkeypatch):
    """The same for a file that the service has already: its upload is finished at once, and must stay true."""
    bench.uploads.keep("t", b"abc")
    os.utime(bench.artifacts.path("t", digest(b"abc")), (0, 0))
    real = bench.inventory.referenced

    def referenced():
        found = real()
        assert bench.uploads.create("t", 3, digest(b"abc"), None).finished
        return found

    monkeypatch.setattr(bench.inventory, "referenced", referenced)
    assert bench.retention.sweep() == Swept()
    bench.register(b"abc")
