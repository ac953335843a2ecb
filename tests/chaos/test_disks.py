"""Full and read-only disks: a typed error, nothing half-written, and life goes on when there is space again."""

import hashlib
import random
import subprocess
import time

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from chaos.catalogue import CHUNK_BYTES, JOBS, ROWS, SOFTMAX, TRAIN, Asker
from chaos.disk import Disk, read_only
from chaos.process import SERVE, Service
from undue.v1 import jobs_pb2, server_info_pb2, uploads_pb2

SIZE = 16 << 20
ALL_SCORES = jobs_pb2.Job(influence={"model": SOFTMAX, "train": TRAIN, "test": TRAIN, "method": "grad_dot"})
SCORES_BYTES = ROWS * ROWS * 4


class Bench:
    """A service whose data directory is a disk of its own."""

    def __init__(self, disk, service):
        self.disk, self.service = disk, service
        self.service.start()
        self.channel = self.service.channel()
        self.asker = Asker(self.channel, random.Random(0))
        self.alive()

    def alive(self):
        """Wait until it answers; a call may still meet the connection to the service before this one."""
        request, deadline = server_info_pb2.GetServerInfoRequest(), time.monotonic() + 30
        while True:
            try:
                return self.channel.server.GetServerInfo(request, wait_for_ready=True, timeout=30)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise

    def register(self):
        self.asker.dataset(0)
        self.asker.wait_for_all()
        self.asker.model("softmax", "softmax")
        self.asker.wait_for_all()

    def create(self, job):
        return self.channel.jobs.CreateJob(jobs_pb2.CreateJobRequest(job=job), timeout=30)

    def left(self):
        folders = (self.service.data / name for name in ("scratch", "taken"))
        return [path for folder in folders for path in folder.rglob("*")]


@pytest.fixture
def bench(tmp_path):
    disk = Disk(tmp_path / "data", SIZE)
    try:
        with Service(tmp_path) as service:
            bench = Bench(disk, service)
            yield bench
            bench.channel.close()
            service.stop()
    finally:
        disk.remove()


def refusal(call):
    """Return code and reason of a call that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    [packed] = [value for key, value in caught.value.trailing_metadata() if key == "grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(info)
    return caught.value.code().name, info.reason


def reason_of(job):
    info = error_details_pb2.ErrorInfo()
    assert job.error.details[0].Unpack(info)
    return info.reason


def test_an_upload_onto_a_full_disk_stops_and_goes_on(bench):
    content = random.Random(0).randbytes(3 << 20)
    declared = uploads_pb2.Upload(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    upload = bench.channel.uploads.CreateUpload(uploads_pb2.CreateUploadRequest(upload=declared))
    bench.disk.fill(leave=(1 << 20) + 50_000)

    def chunks():
        for offset in range(0, len(content), CHUNK_BYTES):
            data = content[offset : offset + CHUNK_BYTES]
            digest = hashlib.sha256(data).digest()
            yield uploads_pb2.WriteUploadRequest(name=upload.name, offset=offset, data=data, sha256=digest)

    assert refusal(lambda: bench.channel.uploads.WriteUpload(chunks())) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
    [staged] = (path for path in (bench.service.data / "staging").rglob("*") if path.is_file())
    size = staged.stat().st_size
    assert size > 0
    assert size % CHUNK_BYTES == 0, "half a chunk is left"
    assert staged.read_bytes() == content[:size]
    assert bench.channel.uploads.GetUpload(uploads_pb2.GetUploadRequest(name=upload.name)).received_bytes == size
    bench.alive()
    bench.disk.free()
    bench.asker.upload(content)
    digest = declared.sha256
    assert (bench.service.data / "artifacts" / "default" / digest[:2] / digest).read_bytes() == content


@pytest.mark.parametrize("leave", [SCORES_BYTES // 2, SCORES_BYTES * 3 // 2], ids=["for no result", "for no copy"])
def test_a_result_that_finds_no_space_fails_its_job_alone(bench, leave):
    bench.register()
    bench.disk.fill(leave)
    failed = bench.asker.wait(bench.create(ALL_SCORES).name)
    assert failed.state == jobs_pb2.Job.STATE_FAILED
    assert reason_of(failed) == "STORAGE_FULL"
    assert bench.left() == []
    bench.alive()
    bench.disk.free()
    again = bench.asker.wait(bench.create(ALL_SCORES).name)
    assert (again.state, again.attempt) == (jobs_pb2.Job.STATE_SUCCEEDED, 1)


def test_without_a_byte_left_nothing_is_lost_and_the_service_even_starts(bench):
    bench.register()
    known = bench.asker.wait(bench.create(JOBS["exact"]).name)
    queued = [bench.create(JOBS["exact, all scores"]).name for _ in range(3)]
    bench.disk.fill()
    answers = set()
    for _ in range(200):  # until the log of the database, which was larger once, has no room left either
        try:
            queued.append(bench.create(JOBS["exact"]).name)
        except grpc.RpcError as error:
            answers.add(error.code().name)
            break
    assert answers == {"RESOURCE_EXHAUSTED"}
    assert refusal(lambda: bench.create(JOBS["exact"])) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
    assert bench.channel.jobs.GetJob(jobs_pb2.GetJobRequest(name=known.name)).state == jobs_pb2.Job.STATE_SUCCEEDED
    bench.service.kill()
    bench.service.start()
    bench.alive()
    page = bench.channel.jobs.ListExplanations(jobs_pb2.ListExplanationsRequest(parent=known.name))
    assert len(page.explanations) == 5
    bench.disk.free()
    for name in queued:
        job = bench.asker.wait(name)
        # Those that were worked on while there was no space may have failed for it; none hangs and none is lost.
        assert job.state == jobs_pb2.Job.STATE_SUCCEEDED or reason_of(job) == "STORAGE_FULL"
    assert bench.asker.wait(bench.create(JOBS["exact"]).name).state == jobs_pb2.Job.STATE_SUCCEEDED
    assert bench.left() == []


def test_a_read_only_disk_refuses_what_writes_and_is_forgiven(bench):
    bench.register()
    known = bench.asker.wait(bench.create(JOBS["exact"]).name)
    content = random.Random(0).randbytes(1000)
    declared = uploads_pb2.Upload(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    upload = bench.channel.uploads.CreateUpload(uploads_pb2.CreateUploadRequest(upload=declared))
    chunk = uploads_pb2.WriteUploadRequest(name=upload.name, data=content, sha256=hashlib.sha256(content).digest())
    with read_only(bench.service.data):
        write = lambda: bench.channel.uploads.WriteUpload(iter([chunk]))  # noqa: E731
        assert refusal(write) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE")
        page = bench.channel.jobs.ListExplanations(jobs_pb2.ListExplanationsRequest(parent=known.name))
        assert len(page.explanations) == 5
        # Many at once, so that connections to the database are opened that cannot write.
        calls = [bench.channel.jobs.CreateJob.future(jobs_pb2.CreateJobRequest(job=JOBS["exact"])) for _ in range(40)]
        codes = {call.code().name for call in calls}
        assert codes <= {"OK", "UNAVAILABLE"}, codes
        time.sleep(1)
        bench.alive()
    write()
    calls = [bench.channel.jobs.CreateJob.future(jobs_pb2.CreateJobRequest(job=JOBS["exact"])) for _ in range(40)]
    last = [call.result().name for call in calls][-1]
    assert bench.asker.wait(last).state == jobs_pb2.Job.STATE_SUCCEEDED


def test_a_service_on_a_read_only_disk_says_so_and_ends(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    command = [*SERVE, "--address", f"unix:{tmp_path}/s", "--data-dir", str(data)]
    with read_only(data):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "STORAGE_UNAVAILABLE" in done.stderr
    assert "Traceback" not in done.stderr
