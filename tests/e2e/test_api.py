"""The API as any gRPC client meets it: health, reflection, and errors that say what they are."""

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving import details, serving
from undue.v1 import jobs_pb2, jobs_pb2_grpc, models_pb2, models_pb2_grpc, uploads_pb2, uploads_pb2_grpc


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("data")) as address, grpc.insecure_channel(address) as channel:
        yield channel


def test_health_and_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "undue.v1.JobService", "undue.v1.ModelService"):
        assert (
            health.Check(health_pb2.HealthCheckRequest(service=service)).status
            == health_pb2.HealthCheckResponse.SERVING
        )
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    names = {f"undue.v1.{name}Service" for name in ("Upload", "Model", "Dataset", "Job", "Server")}
    assert names <= services


def test_every_error_is_a_rich_status(channel):
    with pytest.raises(grpc.RpcError) as caught:
        jobs_pb2_grpc.JobServiceStub(channel).GetJob(jobs_pb2.GetJobRequest(name="jobs/" + "0" * 32))
    status, info = details(caught.value)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert (info.reason, info.domain) == ("RESOURCE_NOT_FOUND", "undue")
    assert status.message == caught.value.details()
    assert status.details[1].Is(error_details_pb2.RequestInfo.DESCRIPTOR)


@pytest.mark.parametrize(
    ("service", "method", "request_message", "code", "reason"),
    [
        (jobs_pb2_grpc.JobServiceStub, "GetJob", jobs_pb2.GetJobRequest(name="x"), "INVALID_ARGUMENT", "INVALID_NAME"),
        (jobs_pb2_grpc.JobServiceStub, "CreateJob", jobs_pb2.CreateJobRequest(), "INVALID_ARGUMENT", "INVALID_FIELD"),
        (
            jobs_pb2_grpc.JobServiceStub,
            "ListJobs",
            jobs_pb2.ListJobsRequest(page_token="x"),
            "INVALID_ARGUMENT",
            "INVALID_PAGE_TOKEN",
        ),
        (
            models_pb2_grpc.ModelServiceStub,
            "GetModel",
            models_pb2.GetModelRequest(name="models/none"),
            "NOT_FOUND",
            "RESOURCE_NOT_FOUND",
        ),
        (
            models_pb2_grpc.ModelServiceStub,
            "CreateModel",
            models_pb2.CreateModelRequest(),
            "INVALID_ARGUMENT",
            "INVALID_NAME",
        ),
        (
            uploads_pb2_grpc.UploadServiceStub,
            "CreateUpload",
            uploads_pb2.CreateUploadRequest(upload=uploads_pb2.Upload(size_bytes=5 << 30, sha256="0" * 64)),
            "RESOURCE_EXHAUSTED",
            "UPLOAD_TOO_LARGE",
        ),
        (
            uploads_pb2_grpc.UploadServiceStub,
            "CreateUpload",
            uploads_pb2.CreateUploadRequest(request_id="x"),
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
        ),
    ],
)
def test_bad_requests(channel, service, method, request_message, code, reason):
    with pytest.raises(grpc.RpcError) as caught:
        getattr(service(channel), method)(request_message)
    _, info = details(caught.value)
    assert (caught.value.code().name, info.reason) == (code, reason)


def test_streams_fail_with_rich_errors_too(channel):
    jobs = jobs_pb2_grpc.JobServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        list(jobs.WatchJob(jobs_pb2.WatchJobRequest(name="jobs/" + "0" * 32)))
    assert details(caught.value)[1].reason == "RESOURCE_NOT_FOUND"
    uploads = uploads_pb2_grpc.UploadServiceStub(channel)
    made = uploads.CreateUpload(
        uploads_pb2.CreateUploadRequest(upload=uploads_pb2.Upload(size_bytes=3, sha256="0" * 64))
    )
    chunk = uploads_pb2.WriteUploadRequest(name=made.name, data=b"abc", sha256=bytes(32))
    with pytest.raises(grpc.RpcError) as caught:
        uploads.WriteUpload(iter([chunk]))
    assert details(caught.value)[1].reason == "DIGEST_MISMATCH"
    assert uploads.GetUpload(uploads_pb2.GetUploadRequest(name=made.name)).received_bytes == 0


def test_a_chosen_request_id_comes_back(channel):
    jobs = jobs_pb2_grpc.JobServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        jobs.GetJob(jobs_pb2.GetJobRequest(name="x"), metadata=(("x-request-id", "my-call-7"),))
    assert ("x-request-id", "my-call-7") in [(key, value) for key, value in caught.value.initial_metadata()]


@pytest.mark.parametrize(
    ("method", "request_bytes", "code", "reason"),
    [
        ("/undue.v1.JobService/GetJob", b"\xff\xff\xff", "INVALID_ARGUMENT", "REQUEST_MALFORMED"),
        ("/undue.v1.JobService/MakeCoffee", b"", "UNIMPLEMENTED", "RPC_UNKNOWN"),
        ("/undue.v9.JobService/GetJob", b"", "UNIMPLEMENTED", "RPC_UNKNOWN"),
    ],
)
def test_calls_that_no_stub_makes(channel, method, request_bytes, code, reason):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(request_bytes)
    _, info = details(caught.value)
    assert (caught.value.code().name, info.reason) == (code, reason)


def test_all_wrong_fields_are_told_at_once(channel):
    spec = jobs_pb2.InfluenceSpec(model="models/m", test="datasets/t", rows=[3, -1], top_k=0)
    with pytest.raises(grpc.RpcError) as caught:
        jobs_pb2_grpc.JobServiceStub(channel).CreateJob(jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(influence=spec)))
    status, _ = details(caught.value)
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [one.field for one in bad.field_violations] == [
        "job.influence.train",
        "job.influence.rows[1]",
        "job.influence.top_k",
    ]
    assert {one.reason for one in bad.field_violations} == {"INVALID_FIELD"}
