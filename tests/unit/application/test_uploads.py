"""Uploads over real folders and the in-memory store."""

import hashlib
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from undue_service.adapters.artifacts import LocalArtifacts, LocalStaging
from undue_service.adapters.clock import SystemClock
from undue_service.adapters.memory import MemoryUploadStore
from undue_service.application.uploads import MAX_CHUNK_BYTES, Uploads
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, ResourceExhausted
from undue_service.domain.resources import RequestKey

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def bench(tmp_path):
    artifacts, staging, store = LocalArtifacts(tmp_path), LocalStaging(tmp_path), MemoryUploadStore()
    uploads = Uploads(store, artifacts, staging, SystemClock(), max_bytes=1 << 30)
    return SimpleNamespace(uploads=uploads, artifacts=artifacts, staging=staging, store=store, root=tmp_path)


def chunks(size):
    return [(start, DATA[start : start + size]) for start in range(0, len(DATA), size)]


def write_all(bench, upload, size=1000):
    write = bench.uploads.writer("t", upload.name)
    for offset, data in chunks(size):
        latest = write(offset, data, hashlib.sha256(data).digest())
    return latest


def staged(bench):
    return [path for path in (bench.root / "staging").rglob("*") if path.is_file()]


def test_an_upload_arrives(bench):
    upload = bench.uploads.create("t", len(DATA), DIGEST, None)
    assert write_all(bench, upload).finished
    assert bench.artifacts.path("t", DIGEST).read_bytes() == DATA
    assert bench.uploads.finished_digest("t", "f", upload.name) == DIGEST
    assert staged(bench) == []


def test_known_bytes_are_finished_at_once_for_their_tenant_alone(bench):
    write_all(bench, bench.uploads.create("t", len(DATA), DIGEST, None))
    assert bench.uploads.create("t", len(DATA), DIGEST, None).finished
    assert not bench.uploads.create("other", len(DATA), DIGEST, None).finished
    with pytest.raises(InvalidArgument, match="size_bytes"):
        bench.uploads.create("t", 7, DIGEST, None)


def test_an_empty_file(bench):
    digest = hashlib.sha256(b"").hexdigest()
    assert bench.uploads.create("t", 0, digest, None).finished
    assert bench.artifacts.path("t", digest).read_bytes() == b""
    with pytest.raises(InvalidArgument):
        bench.uploads.create("t", 0, DIGEST, None)


def test_two_writers_of_one_upload_end_with_the_right_bytes(bench):
    for _ in range(20):
        upload = bench.uploads.create("t", len(DATA), DIGEST, None)
        refused = []

        def work(name=upload.name, refused=refused):
            write = bench.uploads.writer("t", name)
            for offset, data in chunks(500):
                try:
                    write(offset, data, hashlib.sha256(data).digest())
                except (InvalidArgument, FailedPrecondition) as error:
                    assert error.reason is Reason.UPLOAD_OFFSET_MISMATCH
                    refused.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        write = bench.uploads.writer("t", upload.name)
        at = bench.uploads.received(bench.uploads.get("t", upload.name))
        while at < len(DATA):
            data = DATA[at : at + 500]
            write(at, data, hashlib.sha256(data).digest())
            at += len(data)
        assert bench.uploads.get("t", upload.name).finished
        assert hashlib.sha256(bench.artifacts.path("t", DIGEST).read_bytes()).hexdigest() == DIGEST
        bench.artifacts.path("t", DIGEST).unlink()


def test_a_crash_between_keeping_and_noting_loses_nothing(bench, monkeypatch):
    upload = bench.uploads.create("t", len(DATA), DIGEST, None)
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_all(bench, upload)
    found = bench.uploads.get("t", upload.name)
    assert found.finished
    assert bench.uploads.received(found) == len(DATA)


@pytest.mark.parametrize("asked", ["get", "create again", "write again"])
def test_a_crash_after_the_last_chunk_loses_nothing(bench, monkeypatch, asked):
    request = RequestKey("6f0c8f1e-0000-4000-8000-000000000000", "a")
    upload = bench.uploads.create("t", len(DATA), DIGEST, request)
    with monkeypatch.context() as patch:
        patch.setattr(bench.artifacts, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_all(bench, upload)
    assert not bench.store.get("t", upload.id).finished
    match asked:
        case "get":
            assert bench.uploads.get("t", upload.name).finished
        case "create again":
            assert bench.uploads.create("t", len(DATA), DIGEST, request) == replace(upload, finished=True)
        case "write again":
            with pytest.raises(FailedPrecondition) as caught:
                bench.uploads.writer("t", upload.name)(0, DATA[:9], hashlib.sha256(DATA[:9]).digest())
            assert caught.value.metadata == {"received_bytes": str(len(DATA))}
    assert bench.artifacts.path("t", DIGEST).read_bytes() == DATA
    assert staged(bench) == []


def test_a_crash_after_the_last_of_the_wrong_bytes_starts_the_upload_over(bench):
    upload = bench.uploads.create("t", len(DATA), DIGEST, None)
    bench.staging.append("t", upload.id, 0, b"x" * len(DATA))
    assert bench.uploads.received(bench.uploads.get("t", upload.name)) == 0
    assert write_all(bench, upload).finished


def test_the_wrong_bytes_leave_nothing_and_may_be_sent_again(bench):
    upload = bench.uploads.create("t", len(DATA), DIGEST, None)
    write = bench.uploads.writer("t", upload.name)
    wrong = b"x" * len(DATA)
    with pytest.raises(InvalidArgument) as caught:
        write(0, wrong, hashlib.sha256(wrong).digest())
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert staged(bench) == []
    assert write_all(bench, upload).finished


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        ((0, b"abc", bytes(32)), Reason.DIGEST_MISMATCH),
        ((5, b"abc", None), Reason.UPLOAD_OFFSET_MISMATCH),
        ((0, bytes(len(DATA) + 1), None), Reason.UPLOAD_TOO_LARGE),
        ((0, bytes(MAX_CHUNK_BYTES + 1), None), Reason.UPLOAD_TOO_LARGE),
    ],
)
def test_a_wrong_chunk_is_refused_and_changes_nothing(bench, chunk, reason):
    upload = bench.uploads.create("t", len(DATA), DIGEST, None)
    offset, data, digest = chunk
    with pytest.raises(InvalidArgument) as caught:
        bench.uploads.writer("t", upload.name)(offset, data, digest or hashlib.sha256(data).digest())
    assert caught.value.reason is reason
    assert bench.uploads.received(bench.uploads.get("t", upload.name)) == 0


def test_an_unfinished_upload_cannot_be_used(bench):
    upload = bench.uploads.create("t", len(DATA), DIGEST, None)
    with pytest.raises(FailedPrecondition) as caught:
        bench.uploads.finished_digest("t", "model.upload", upload.name)
    assert caught.value.reason is Reason.UPLOAD_INCOMPLETE
    with pytest.raises(NotFound):
        bench.uploads.finished_digest("t", "model.upload", "uploads/" + "0" * 32)


def test_limits(bench):
    with pytest.raises(ResourceExhausted) as caught:
        bench.uploads.create("t", (1 << 30) + 1, DIGEST, None)
    assert caught.value.metadata == {"limit_bytes": str(1 << 30)}


def test_bytes_inside_a_request_are_kept_and_leave_nothing(bench):
    assert bench.uploads.keep("t", DATA) == bench.uploads.keep("t", DATA) == DIGEST
    assert staged(bench) == []
