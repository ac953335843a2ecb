"""A URI means the files that were there when its data set was registered."""

from dataclasses import replace

import pytest

from undue_service.adapters.artifacts import LocalArtifacts
from undue_service.adapters.clock import SystemClock
from undue_service.adapters.memory import MemoryJobStore, MemoryLocator, MemoryRegistry, NoMetrics
from undue_service.application.changes import Changes
from undue_service.application.registration import Registrations
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.resources import RequestKey
from undue_service.domain.specs import FileSource, LocatedFile, SchemaSpec, UploadedFile

URI = "file:///data/*.csv"
FILES = tuple(LocatedFile(f"{name}.csv", f"/data/{name}.csv", 3, 4, 5, 6) for name in "ab")
SOURCE = FileSource("csv", (), SchemaSpec({"": ("x",)}), URI)


class Disk(MemoryLocator):
    def __init__(self):
        super().__init__()
        self.asked = []

    def locate(self, uri, file_format):
        self.asked.append((uri, file_format))
        return super().locate(uri, file_format)


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def artifacts(tmp_path):
    return LocalArtifacts(tmp_path)


@pytest.fixture
def registrations(disk, artifacts):
    return Registrations(MemoryRegistry(MemoryJobStore()), artifacts, Changes(), NoMetrics(), SystemClock(), disk)


def test_the_files_are_settled_when_they_are_registered(registrations, disk):
    disk._files[URI] = FILES
    made = registrations.create_dataset("t", "d", SOURCE, None)
    assert made.spec == replace(SOURCE, files=FILES)
    disk._files[URI] = FILES[:1]
    assert registrations.get("t", "datasets", "name", "datasets/d").spec.files == FILES
    assert registrations.create_dataset("t", "d", SOURCE, None).spec.files == FILES[:1]
    assert disk.asked == [(URI, "csv")] * 2


def test_a_uri_that_means_nothing_registers_nothing(registrations):
    with pytest.raises(NotFound) as caught:
        registrations.create_dataset("t", "d", SOURCE, None)
    assert caught.value.reason is Reason.URI_NOT_FOUND
    assert registrations.list("t", "datasets", "", 10, None).items == ()


def test_a_repeated_request_gets_its_version_though_the_files_are_gone(registrations, disk):
    disk._files[URI] = FILES
    request = RequestKey("one", "fingerprint")
    made = registrations.create_dataset("t", "d", SOURCE, request)
    disk._files.clear()
    assert registrations.create_dataset("t", "d", SOURCE, request) == made


def test_uploads_are_not_looked_for(registrations, disk, artifacts, tmp_path):
    (tmp_path / "sent").write_bytes(b"x\n1\n")
    source = FileSource("csv", (UploadedFile("a.csv", artifacts.keep("t", tmp_path / "sent")),), SOURCE.schema)
    assert registrations.create_dataset("t", "d", source, None).spec == source
    assert disk.asked == []
