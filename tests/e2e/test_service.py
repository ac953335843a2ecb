"""The service as a process: what it survives, what it refuses, what it never imports."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import torch

import undue


@pytest.fixture
def own_client(tmp_path):
    with undue.Client.local(tmp_path / "data") as client:
        yield client


def register_slow(client, digits):
    """Register an MLP small enough for a dense Hessian and large enough to be interrupted, with its data."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    X, y = digits.X_train[:800].astype(np.float32), digits.y_train[:800]
    train = client.datasets.register("slow-train", undue.Arrays(inputs=X, targets=y))
    objective = undue.Objective("cross_entropy", l2=1e-3)
    with pytest.warns(undue.ModelWarning):
        registered = client.models.register(
            "slow", model, objective=objective, example_inputs=torch.zeros(2, 64), sample=train
        )
    return registered, train


def runner_of(client):
    [runner] = [runner for runner in client.server_info().runners if runner.state == "BUSY"]
    return runner.pid


def started(job):
    job.refresh()
    return job.progress.stage == "curvature" and job.progress.done > 0


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_runner_killed_in_the_middle_is_replaced_and_the_job_succeeds(own_client, digits):
    client = own_client
    model, train = register_slow(client, digits)
    quiet = client.influence(model, train=train, test=train, rows=[0, 1], method="exact", damping=1.0).result()

    job = client.influence(model, train=train, test=train, rows=[0, 1], method="exact", damping=1.0)
    wait_until(lambda: started(job))
    victim = runner_of(client)
    answers, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            start = time.monotonic()
            client.server_info()
            answers.append(time.monotonic() - start)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    os.kill(victim, signal.SIGKILL)
    result = job.result(timeout=120)
    stop.set()
    asking.join()
    job.refresh()
    assert job.state == "SUCCEEDED"
    assert job.attempt == 2
    assert not psutil.pid_exists(victim)
    assert [[one.row for one in e.helpful] for e in result.explanations] == [
        [one.row for one in e.helpful] for e in quiet.explanations
    ]
    print(f"{len(answers)} calls answered meanwhile, the slowest in {max(answers):.3f} s")
    assert len(answers) > 20
    assert max(answers) < 2.0


def test_cancel_kills_the_runner_and_frees_the_slot(own_client, digits):
    client = own_client
    model, train = register_slow(client, digits)
    job = client.influence(model, train=train, test=train, method="exact", damping=1.0)
    wait_until(lambda: started(job))
    victim = runner_of(client)
    job.cancel()
    with pytest.raises(undue.Cancelled):
        job.result(timeout=30)
    wait_until(lambda: not psutil.pid_exists(victim), 10)
    assert client.influence(model, train=train, test=train, rows=[0], method="grad_dot").result(timeout=60).explanations


def test_jobs_go_on_after_the_service_was_killed(tmp_path, digits):
    first = undue.Client.local(tmp_path)
    model, train = register_slow(first, digits)
    job = first.influence(model, train=train, test=train, rows=[3], method="exact", damping=1.0)
    wait_until(lambda: started(job))
    runner = runner_of(first)
    service = psutil.Process(runner).parent()
    service.kill()
    wait_until(lambda: not psutil.pid_exists(runner) or psutil.Process(runner).status() == "zombie", 10)
    first.close()
    with undue.Client.local(tmp_path) as second:
        result = second.jobs.get(job.name).result(timeout=120)
        assert result.explanations[0].row == 3
        assert second.jobs.get(job.name).attempt == 2
        assert not list((tmp_path / "scratch").iterdir())


def test_a_data_dir_is_held_by_one_service(own_client, tmp_path):
    with pytest.raises(undue.FailedPrecondition) as caught:
        undue.Client.local(tmp_path / "data")
    assert caught.value.reason == "DATA_DIR_LOCKED"


def test_the_service_ends_with_its_parent(tmp_path):
    lines = (
        "import undue, time",
        "client = undue.Client.local()",
        "print(client.server_info().runners[0].pid, flush=True)",
        "time.sleep(60)",
    )
    code = "\n".join(lines)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    runner = psutil.Process(int(parent.stdout.readline()))
    service = runner.parent()
    parent.kill()
    parent.wait()
    psutil.wait_procs([service, runner], timeout=15)
    assert not service.is_running()
    assert not runner.is_running()


def test_the_api_process_holds_no_model_library(tmp_path):
    code = (
        "import sys, time; start = time.perf_counter(); import undue_service.main; "
        "print(time.perf_counter() - start, *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    seconds, *modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "onnx", "onnxruntime", "pyarrow", "ray", "sklearn", "pandas"} & set(modules)
    print(f"import takes {float(seconds):.2f} s")


@pytest.mark.parametrize("where", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"])
def test_it_refuses_to_listen_beyond_loopback(where, tmp_path):
    command = [sys.executable, "-m", "undue_service.main", "serve", "--address", where, "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "refusing to listen" in done.stderr


def test_check_says_what_it_found(tmp_path):
    command = [sys.executable, "-m", "undue_service.main", "check", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert found["libraries"]["torch"].startswith("2.")
    assert found["devices"]
