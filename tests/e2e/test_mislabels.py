"""Mislabelled rows through the service: SDK, wire, runner and engine."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import undue

RANKINGS = ("self_influence", "loss", "margin", "confident_learning", "random")


@pytest.fixture(scope="module")
def found(client, registered):
    job = client.mislabels(
        registered.model, train=registered.train, test=registered.test, flip=0.1, budgets=[0.05, 0.15, 1.0], seeds=2
    )
    return job, job.result(timeout=200)


def test_rankings_find_flipped_digits(client, found):
    job, result = found
    assert job.kind == "mislabels"
    assert job.spec["rankings"] == list(RANKINGS)
    assert (result.rankings, result.budgets, result.wrong, len(result)) == (RANKINGS, (0.05, 0.15, 1.0), 150, 2)
    for name in RANKINGS[:-1]:
        assert (result.found(name)[:, 1] > 0.9).all(), name
    assert (result.found("random")[:, 1] < 0.3).all()
    for name in RANKINGS:
        assert (result.found(name)[:, 2] == 1).all()
        assert (result.accuracy(name)[:, 2] == result.accuracy_right).all()
    d = result.diagnostics
    assert (d.method, d.scale, d.damping, d.leverage_correction) == ("exact", "relative", 0.0, True)
    assert "Newton" in d.recipe
    assert set(d.digests) == {"model", "train", "test", "code"}
    assert "±" in str(client.jobs.get(job.name).result())


def test_suspects_are_rows_of_the_data(client, registered, digits):
    result = client.suspects(registered.model, train=registered.train, top_k=4).result(timeout=200)
    assert result.rankings == RANKINGS[:-1]
    own = client.self_influence(registered.model, train=registered.train, top_k=4).result(timeout=200)
    listed = result.lists["self_influence"]
    assert [e.row for e in listed] == [e.row for e in own.examples]
    np.testing.assert_allclose([e.score for e in listed], [e.score for e in own.examples])
    assert all(e.target == digits.y_train[e.row] for each in result.lists.values() for e in each)
    assert listed[0].example.target == listed[0].target
    assert result.overlap.shape == (4, 4)


def test_what_is_refused(client, registered, digits):
    data = {"train": registered.train, "test": registered.test}
    with pytest.raises(undue.InvalidArgument) as caught:
        client.mislabels(registered.model, **data, known=[10**6])
    assert caught.value.reason == "ROW_OUT_OF_RANGE"
    with pytest.raises(undue.InvalidArgument, match="ascending"):
        client.mislabels(registered.model, **data, budgets=[0.2, 0.1])
    job = client.mislabels(registered.model, **data, known={0: int(digits.y_train[0])}, seeds=1)
    with pytest.raises(undue.JobFailed) as failed:
        job.result(timeout=100)
    assert failed.value.reason == "TARGET_MISMATCH"


def test_an_estimate_needs_no_job(client, registered):
    data = {"train": registered.train, "test": registered.test}
    whole = client.estimate(registered.model, **data, rankings=None)
    some = client.estimate(registered.model, **data, rankings=["loss"], seeds=1)
    assert whole.seconds > some.seconds > 0
    assert client.estimate(registered.model, train=registered.train, rankings=["loss"]).seconds < whole.seconds


def test_the_command_line(client, registered):
    words = [
        "suspects",
        registered.model.name,
        "--train",
        registered.train.name,
        "--top-k",
        "2",
        "--rankings",
        "margin",
    ]
    environment = os.environ | {"UNDUE_ADDRESS": client.address}
    ran = subprocess.run(
        [sys.executable, "-m", "undue.cli.main", *words, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert len(json.loads(ran.stdout)["lists"]["margin"]) == 2
