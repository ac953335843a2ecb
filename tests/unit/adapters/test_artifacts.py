import errno
import hashlib
import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from undue_service.adapters.artifacts import LocalArtifacts, LocalStaging
from undue_service.adapters.data_dir import DataDir
from undue_service.application.ports import Held
from undue_service.domain.errors import (
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)

DATA = b"some bytes"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def staging(tmp_path):
    return LocalStaging(tmp_path)


@pytest.fixture
def artifacts(tmp_path):
    return LocalArtifacts(tmp_path)


def test_what_is_staged_in_order_is_kept_under_its_digest(staging, artifacts):
    assert staging.append("t", "u", 0, DATA[:4]) == 4
    assert staging.append("t", "u", 4, DATA[4:]) == len(DATA)
    assert artifacts.keep("t", staging.path("t", "u"), DIGEST) == DIGEST
    assert artifacts.path("t", DIGEST).read_bytes() == DATA
    assert staging.size("t", "u") == 0
    assert artifacts.contains("t", DIGEST)
    assert not artifacts.contains("other", DIGEST), "tenants share nothing"


def test_a_chunk_out_of_place_is_refused_and_says_where_to_go_on(staging):
    staging.append("t", "u", 0, DATA)
    for offset in (0, 3, len(DATA) + 1):
        with pytest.raises(InvalidArgument) as caught:
            staging.append("t", "u", offset, b"x")
        assert caught.value.metadata == {"received_bytes": str(len(DATA))}
    assert staging.size("t", "u") == len(DATA)


def test_bytes_of_another_digest_are_refused(staging, artifacts):
    staging.append("t", "u", 0, DATA)
    with pytest.raises(InvalidArgument) as caught:
        artifacts.keep("t", staging.path("t", "u"), "0" * 64)
    assert caught.value.reason is Reason.DIGEST_MISMATCH
    assert not artifacts.contains("t", "0" * 64)


def test_keeping_the_same_bytes_twice_is_one_artifact(staging, artifacts):
    for key in ("u", "v"):
        staging.append("t", key, 0, DATA)
        assert artifacts.keep("t", staging.path("t", key)) == DIGEST
    assert artifacts.path("t", DIGEST).read_bytes() == DATA


def test_an_artifact_is_removed_by_its_age_and_renewing_makes_it_young(staging, artifacts):
    def keep():
        staging.append("t", "u", 0, DATA)
        artifacts.keep("t", staging.path("t", "u"))
        return next(artifacts.held()).modified

    first = keep()
    assert not artifacts.remove("t", DIGEST, first), "no older than that"
    year = 365 * 86400
    for renew in (lambda: artifacts.renew("t", DIGEST), keep):
        os.utime(artifacts.path("t", DIGEST), (year, year))
        assert next(artifacts.held()) == Held("t", DIGEST, datetime(1971, 1, 1, tzinfo=UTC))
        renew()
        assert not artifacts.remove("t", DIGEST, first)
    assert artifacts.renew("t", DIGEST) == len(DATA)
    assert artifacts.remove("t", DIGEST, first + timedelta(days=1))
    assert not artifacts.remove("t", DIGEST, first + timedelta(days=1))
    assert artifacts.renew("t", DIGEST) is None
    assert list(artifacts.held()) == []


def test_what_has_arrived_is_listed(staging):
    staging.append("t", "u", 0, DATA)
    staging.append("other", "v", 0, DATA)
    assert {(one.tenant, one.key) for one in staging.held()} == {("t", "u"), ("other", "v")}


class FullDisk(io.FileIO):
    """A file that takes a few more bytes, then none."""

    def write(self, data):
        if len(data) <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:3])


@pytest.mark.parametrize("before", [b"", DATA])
def test_a_chunk_that_finds_no_space_leaves_nothing_of_itself(staging, monkeypatch, before):
    staging.append("t", "u", 0, before)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode, buffering: FullDisk(path, "ab"))
        with pytest.raises(ResourceExhausted) as caught:
            staging.append("t", "u", len(before), b"12345678")
    assert caught.value.reason is Reason.STORAGE_FULL
    assert staging.path("t", "u").read_bytes() == before
    assert staging.append("t", "u", len(before), b"12345678") == len(before) + 8


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, Reason.STORAGE_FULL), (errno.EROFS, Reason.STORAGE_UNAVAILABLE)]
)
@pytest.mark.parametrize("call", ["fsync", "mkdir", "utime"])
def test_an_artifact_that_cannot_be_kept_stays_staged(staging, artifacts, monkeypatch, call, number, reason):
    staging.append("t", "u", 0, DATA)

    def fail(*arguments, **options):
        raise OSError(number, "as the system says it")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Error) as caught:
            artifacts.keep("t", staging.path("t", "u"))
    assert caught.value.reason is reason
    assert not artifacts.contains("t", DIGEST)
    assert artifacts.keep("t", staging.path("t", "u")) == DIGEST


def test_a_result_that_finds_no_space_leaves_no_half_copy(staging, tmp_path, monkeypatch):
    place = staging.scratch("job")
    (place / "file").write_bytes(DATA)

    def full(source, target, length):
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(ResourceExhausted):
        staging.take(place, "file")
    assert list((tmp_path / "taken").iterdir()) == []


def test_a_missing_artifact_is_not_found(artifacts):
    with pytest.raises(NotFound):
        artifacts.path("t", DIGEST)


def test_an_artifact_is_read_only(staging, artifacts):
    staging.append("t", "u", 0, DATA)
    artifacts.keep("t", staging.path("t", "u"))
    assert os.stat(artifacts.path("t", DIGEST)).st_mode & 0o222 == 0


def test_scratch_is_empty_each_time(staging):
    place = staging.scratch("job")
    (place / "left").write_text("over")
    assert list(staging.scratch("job").iterdir()) == []
    staging.discard_scratch("job")
    assert not place.exists()


def test_a_data_dir_has_one_holder(tmp_path):
    first = DataDir(tmp_path / "d")
    with pytest.raises(FailedPrecondition, match=str(os.getpid())) as caught:
        DataDir(tmp_path / "d")
    assert caught.value.reason is Reason.DATA_DIR_LOCKED
    first.release()
    DataDir(tmp_path / "d").release()


def test_a_workspace_outlives_attempts_and_services(tmp_path):
    staging = LocalStaging(tmp_path)
    assert list(staging.workspaces()) == []
    staging.discard_workspace("job")
    (staging.workspace("job") / "part").write_bytes(b"half")
    staging.workspace("other")
    staging.discard_scratch("job")
    staging.sweep()
    again = LocalStaging(tmp_path)
    assert (again.workspace("job") / "part").read_bytes() == b"half"
    assert sorted(again.workspaces()) == ["job", "other"]
    again.discard_workspace("job")
    assert list(again.workspaces()) == ["other"]
    assert list(again.workspace("job").iterdir()) == []


def test_a_workspace_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "workspaces").write_bytes(b"no folder")
    with pytest.raises(Unavailable):
        LocalStaging(tmp_path).workspace("job")
