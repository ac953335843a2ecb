"""Explain as an operator sees it: metrics, lost runners, deadlines, a restart, and jobs beside it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import grpc
import numpy as np
import psutil
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

import undue
from undue.v1 import indexes_pb2, indexes_pb2_grpc, tensors_pb2


@contextmanager
def observed(folder):
    """Give the address of a service and a function that scrapes it."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "undue_service.main", "serve", "--address", "127.0.0.1:0"]
    command += ["--data-dir", str(folder), "--ready-fd", str(write)]
    environment = os.environ | {"UNDUE_METRICS_ADDRESS": "127.0.0.1:0"}
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(write,), stderr=log, env=environment)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            address = json.loads(pipe.readline())["address"]
        lines = (folder.parent / f"{folder.name}.log").read_text().splitlines()
        [observing] = [one["address"] for one in map(json.loads, lines) if one["message"] == "observing"]

        def scrape():
            with urllib.request.urlopen(f"http://{observing}/metrics", timeout=10) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
            return {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}

        yield address, scrape
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """A data directory with an index, aliases/live."""
    folder = tmp_path_factory.mktemp("serving") / "data"
    folder.mkdir()
    with observed(folder) as (address, _), undue.Client(address) as client:
        train = client.datasets.register("train", undue.Arrays(inputs=digits.X_train, targets=digits.y_train))
        model = client.models.register(
            "softmax",
            digits.model,
            objective=undue.Objective("cross_entropy", l2=digits.l2),
            sample=train,
            example_inputs=torch.as_tensor(digits.X_train[:2]),
        )
        index = client.indexes.build(model, train=train).result()
        client.indexes.set_alias("live", index)
        client.explain("live", inputs=digits.X_test[:1])
    return folder


def runner(address, lane):
    with undue.Client(address) as client:
        return next((one for one in client.server_info().runners if one.lane == lane), None)


async def explain_all(address, X, callers, seconds=0.0):
    """Let so many callers ask about one row after the other; return what each was told of which row."""
    found = []

    async def ask(client, first):
        until = time.monotonic() + seconds
        row = first
        while True:
            [one] = await client.explain("live", inputs=X[row % len(X)][None], with_instances=False)
            found.append((row % len(X), one))
            row += callers
            if time.monotonic() >= until:
                return

    async with undue.AsyncClient(address) as client:
        await asyncio.gather(*(ask(client, first) for first in range(callers)))
    return found


def told(one):
    return [(entry.row, entry.score) for entry in (*one.helpful, *one.harmful)]


def check(found, alone):
    """Hold what callers were told against what each row is told alone."""
    for row, one in found:
        assert [two for two, _ in told(one)] == [two for two, _ in told(alone[row])]
        np.testing.assert_allclose([s for _, s in told(one)], [s for _, s in told(alone[row])], rtol=1e-9)


def test_an_index_is_warm_after_a_restart_and_what_is_asked_is_counted(folder, digits):
    X = digits.X_test[:40]
    with observed(folder) as (address, scrape), undue.Client(address) as client:
        held = ("undue_index_resident_bytes",)
        deadline = time.monotonic() + 60
        while not scrape()[held]:  # nobody has called
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert scrape()[held] >= client.indexes.get("live").report.resident_bytes
        before = runner(address, "serve").pid
        started = time.perf_counter()
        alone = [client.explain("live", inputs=row[None], with_instances=False)[0] for row in X]
        assert (time.perf_counter() - started) / len(X) < 0.5
        check(asyncio.run(explain_all(address, X, 40)), alone)
        after = scrape()
        stage = lambda name: after["undue_explain_stage_seconds_count", ("stage", name)]  # noqa: E731
        assert stage("queue") == stage("total") == 80
        assert after["undue_explain_batch_size_sum",] == 80
        batches = after["undue_explain_batch_size_count",]
        assert 41 <= batches < 80  # some of the forty went together
        assert stage("gradient") == stage("screen") == stage("rescore") == stage("instances") == batches
        assert after["undue_runners", ("lane", "serve"), ("state", "idle")] == 1
        assert runner(address, "serve").pid == before


def test_a_runner_that_is_killed_costs_no_caller_an_answer(folder, digits):
    X = digits.X_test[:16]
    with observed(folder) as (address, scrape), undue.Client(address) as client:
        alone = [client.explain("live", inputs=row[None], with_instances=False)[0] for row in X]

        async def story():
            calls = asyncio.create_task(explain_all(address, X, 16, seconds=3.0))
            await asyncio.sleep(0.5)
            os.kill((await asyncio.to_thread(runner, address, "serve")).pid, signal.SIGKILL)
            return await calls

        check(asyncio.run(story()), alone)
        assert scrape()["undue_runner_restarts_total", ("reason", "died")] == 1


def test_a_deadline_ends_a_call_and_nothing_else(folder, digits):
    with observed(folder) as (address, _), undue.Client(address) as client:
        client.explain("live", inputs=digits.X_test[:1])
        before = runner(address, "serve").pid
        X = np.ascontiguousarray(digits.X_test[:200])
        tensor = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT64, shape=X.shape, data=X.tobytes())
        request = indexes_pb2.ExplainRequest(index="aliases/live", inputs={"": tensor}, exact=True)
        with grpc.insecure_channel(address) as channel:
            stub = indexes_pb2_grpc.IndexServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Explain(request, timeout=0.005)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        client.explain("live", inputs=digits.X_test[:1])
        assert runner(address, "serve").pid == before


def test_a_job_is_held_while_answers_are_computed_and_ends_all_the_same(folder, digits):
    with observed(folder) as (address, _), undue.Client(address) as client:
        client.explain("live", inputs=digits.X_test[:1])
        batch = psutil.Process(runner(address, "batch").pid)
        job = client.self_influence("softmax", train="train", method="cg", tolerance=1e-10)
        states = []

        async def watch():
            calls = asyncio.create_task(explain_all(address, digits.X_test[:50], 4, seconds=2.0))
            while not calls.done():
                states.append(batch.status())
                await asyncio.sleep(0.002)
            return await calls

        assert len(asyncio.run(watch())) > 8
        assert psutil.STATUS_STOPPED in states
        assert any(state != psutil.STATUS_STOPPED for state in states)
        assert job.result(timeout=120)
        assert batch.status() != psutil.STATUS_STOPPED
