"""What an operator sees of a service that works."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import undue


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service with its observing port; gives (client, address of the port)."""
    read, write = os.pipe()
    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "undue_service.main", "serve", "--address", "127.0.0.1:0"]
    command += ["--data-dir", str(folder), "--ready-fd", str(write)]
    environment = os.environ | {"UNDUE_METRICS_ADDRESS": "127.0.0.1:0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(write,), stderr=log, env=environment)
    os.close(write)
    with os.fdopen(read) as pipe:
        address = json.loads(pipe.readline())["address"]
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    [observing] = [line["address"] for line in lines if line["message"] == "observing"]
    with undue.Client(address) as client:
        yield client, observing
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return answer.read().decode()


def samples(address):
    families = text_string_to_metric_families(get(address, "/metrics"))
    return {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}


def test_metrics_follow_the_work(service):
    client, address = service
    before = samples(address)
    assert before["undue_jobs_queued",] == before["undue_jobs_running",] == 0
    X = np.arange(12.0).reshape(6, 2)
    client.datasets.register("good", undue.Arrays(inputs=X, targets=np.arange(6)))
    X[3, 1] = np.nan
    with pytest.raises(undue.JobFailed):
        client.datasets.register("bad", undue.Arrays(inputs=X))
    with pytest.raises(undue.NotFound):
        client.jobs.get("jobs/" + "0" * 32)
    after = samples(address)
    kind = ("kind", "dataset_validation")
    assert after["undue_jobs_submitted_total", kind] == 2
    assert after["undue_jobs_finished_total", kind, ("outcome", "succeeded")] == 1
    assert after["undue_jobs_finished_total", kind, ("outcome", "failed")] == 1
    assert after["undue_job_duration_seconds_count", kind] == after["undue_job_queue_seconds_count",] == 2
    assert after["undue_examples_processed_total", kind] == 6
    assert after["undue_runners", ("lane", "batch"), ("state", "idle")] == 1
    assert after["undue_device_memory_peak_bytes", ("device", "cpu")] > 50 << 20  # torch alone is more
    call = (("grpc_method", "GetJob"), ("grpc_service", "undue.v1.JobService"), ("grpc_type", "unary"))
    assert after["grpc_server_started_total", *call] == 1
    assert after["grpc_server_handled_total", ("grpc_code", "NOT_FOUND"), *call] == 1
    assert after["grpc_server_handling_seconds_count", *call] == 1


def test_a_repeated_request_is_counted_once(service):
    from undue.v1 import datasets_pb2, datasets_pb2_grpc, tensors_pb2

    client, address = service
    import grpc

    tensor = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_INT8, shape=[2, 1], data=b"ab")
    dataset = datasets_pb2.Dataset(arrays=datasets_pb2.ArraysSource(inputs={"": tensor}))
    identity = "3f0c8f1e-0000-4000-8000-000000000000"
    request = datasets_pb2.CreateDatasetRequest(dataset_id="again", dataset=dataset, request_id=identity)
    submitted = ("undue_jobs_submitted_total", ("kind", "dataset_validation"))
    before = samples(address)[submitted]
    with grpc.insecure_channel(client.address) as channel:
        stub = datasets_pb2_grpc.DatasetServiceStub(channel)
        assert stub.CreateDataset(request).name == stub.CreateDataset(request).name
    assert samples(address)[submitted] == before + 1


def test_a_lost_runner_is_counted(service):
    client, address = service
    [runner] = client.server_info().runners
    os.kill(runner.pid, signal.SIGKILL)
    time.sleep(0.2)
    client.datasets.register("after", undue.Arrays(inputs=np.ones((2, 2))))
    counted = {key: value for key, value in samples(address).items() if key[0] == "undue_runner_restarts_total"}
    assert counted == {("undue_runner_restarts_total", ("reason", "died")): 1}


def test_health_and_readiness(service):
    _, address = service
    assert get(address, "/healthz") == "ok\n"
    assert get(address, "/readyz") == "ready\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(address, "/data")


def test_a_taken_port_is_a_typed_error(service, tmp_path):
    _, address = service
    command = [
        sys.executable,
        "-m",
        "undue_service.main",
        "serve",
        "--address",
        "127.0.0.1:0",
        "--data-dir",
        str(tmp_path),
    ]
    environment = os.environ | {"UNDUE_METRICS_ADDRESS": address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ADDRESS_UNAVAILABLE" in done.stderr
