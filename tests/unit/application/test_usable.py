"""A bare name, where something is to be used, means the newest version that has not failed."""

from datetime import UTC, datetime

import pytest

from undue_service.adapters.artifacts import LocalArtifacts
from undue_service.adapters.clock import SystemClock
from undue_service.adapters.memory import MemoryJobStore, MemoryLocator, MemoryRegistry, NoMetrics
from undue_service.application.changes import Changes
from undue_service.application.registration import VERSIONS_AT_ONCE, Registrations
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from undue_service.domain.reports import DatasetReport
from undue_service.domain.specs import ArraysSource, TensorRef

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT = DatasetReport(4, (), None, has_ids=False, has_weights=False, digest="d")
WRONG = InvalidArgument(Reason.NON_FINITE_DATA, "NaN")


@pytest.fixture
def register(tmp_path):
    """A function that registers versions of "d", each of which ends well, badly or not at all."""
    jobs, artifacts = MemoryJobStore(), LocalArtifacts(tmp_path)
    registry = MemoryRegistry(jobs)
    registrations = Registrations(registry, artifacts, Changes(), NoMetrics(), SystemClock(), MemoryLocator())
    (tmp_path / "sent").write_bytes(b"12345678")
    source = ArraysSource({"x": TensorRef("int8", (4, 2), artifacts.keep("t", tmp_path / "sent"))})

    def made(ends):
        for end in ends:
            job = registrations.create_dataset("t", "d", source, None).validation
            if end == "good":
                jobs.update("t", job.id, lambda job: job.start(NOW).succeed(NOW, REPORT, {}))
            elif end == "bad":
                jobs.update("t", job.id, lambda job: job.start(NOW).fail(NOW, WRONG))
        return registrations

    return made


@pytest.mark.parametrize(
    ("ends", "version"),
    [(["good"], 1), (["good", "good"], 2), (["good", "bad"], 1), (["good", *["bad"] * (2 * VERSIONS_AT_ONCE + 1)], 1)],
)
def test_what_failed_does_not_take_the_name_away(register, ends, version):
    registrations = register(ends)
    assert registrations.usable("t", "datasets", "train", "datasets/d").version == version
    assert registrations.get("t", "datasets", "name", "datasets/d").version == len(ends)


@pytest.mark.parametrize("ends", [["bad"], ["bad", "bad"], ["good", "pending"], ["good", "pending", "bad"]])
def test_what_may_still_become_the_newest_is_waited_for(register, ends):
    with pytest.raises(FailedPrecondition) as caught:
        register(ends).usable("t", "datasets", "train", "datasets/d")
    assert caught.value.reason is Reason.RESOURCE_NOT_READY


def test_a_version_that_is_named_is_meant(register):
    registrations = register(["good", "bad"])
    with pytest.raises(FailedPrecondition):
        registrations.usable("t", "datasets", "train", "datasets/d/versions/2")
    with pytest.raises(NotFound):
        registrations.usable("t", "datasets", "train", "datasets/e")
