"""Retraining and aggregated scores through the service: SDK, wire, runner and engine."""

import json
import os
import subprocess
import sys

import grpc
import numpy as np
import pytest
import torch

import undue
from undue.v1 import jobs_pb2, jobs_pb2_grpc

REMOVED = 30


@pytest.fixture(scope="module")
def removed(digits):
    return np.random.default_rng(5).choice(len(digits.X_train), REMOVED, replace=False)


@pytest.fixture(scope="module")
def measured(client, registered, removed):
    return client.retrain(
        registered.model,
        train=registered.train,
        test=registered.test,
        rows=range(100),
        without=[[row] for row in removed],
    )


@pytest.fixture(scope="module")
def stub(client):
    with grpc.insecure_channel(client.address) as channel:
        yield jobs_pb2_grpc.JobServiceStub(channel)


def test_influence_is_what_retraining_measures(client, registered, measured, removed, capsys):
    result = measured.result(timeout=200)
    assert result.changes.shape == (REMOVED, 100)
    assert result.changes.dtype == np.float64
    assert result.diagnostics.residual <= 1e-10
    scores = client.influence(
        registered.model, train=registered.train, test=registered.test, rows=range(100), method="exact", top_k=None
    ).result(timeout=200)
    estimate, truth = scores.scores[:, removed].T, result.changes
    pearson = np.corrcoef(estimate.ravel(), truth.ravel())[0, 1]
    slope = (estimate * truth).sum() / (truth**2).sum()
    with capsys.disabled():
        print(f"\nexact against retrain, {REMOVED} rows of digits: Pearson {pearson:.6f}, slope {slope:.3f}")
    assert pearson > 0.999
    assert 0.97 < slope < 1.03
    np.testing.assert_allclose(result.costs, [each.loss for each in scores], rtol=1e-4, atol=1e-7)


def test_what_was_measured_says_how(client, measured, removed):
    job = client.jobs.get(measured.name)
    assert isinstance(job, undue.RetrainJob)
    result = job.result(timeout=200)
    assert job.kind == "retrain"
    assert job.spec["without"][:2] == [[int(removed[0])], [int(removed[1])]]
    assert len(result) == REMOVED
    assert [each.without for each in result] == [(int(row),) for row in removed]
    assert result.rows == tuple(range(100))
    d = result.diagnostics
    assert (d.method, d.scale, d.solver, d.solver_status) == ("retrain", "removal", "lbfgs", "converged")
    assert d.damping_source == "unused"
    assert "minimiser on all rows" in d.recipe
    assert {"model", "train", "test", "code"} <= set(d.digests)
    assert d.stationarity.gradient_norm < 1e-7
    assert "‖" not in str(result).splitlines()[0]
    assert job.progress.stage == "fits without rows"


def test_edits_are_measured_as_on_data_edited_by_hand(client, digits, registered):
    """A weight of 0 is a removal, rows put back or exchanged change nothing, a copy is a row of twice the weight."""
    rows = digits.X_train
    other = (int(digits.y_train[5]) + 1) % 10
    job = client.retrain(
        registered.model,
        train=registered.train,
        test=registered.test,
        rows=range(20),
        without=[[5]],
        relabel={5: other},
        counterfactuals=[
            undue.Edit(reweight={5: 0.0}),
            undue.Edit(replace={5: rows[5]}),
            undue.Edit(replace={5: rows[9], 9: rows[5]}, relabel={5: digits.y_train[9], 9: digits.y_train[5]}),
            undue.Edit(without=[5], reweight={9: 2.0}),
            undue.Edit(replace={5: rows[9]}, relabel={5: digits.y_train[9]}),
        ],
    )
    result = job.result(timeout=200)
    changes = result.changes
    assert abs(changes[1]).max() > abs(changes[0]).max() > 1e-6
    np.testing.assert_allclose(changes[2], changes[0], atol=1e-9)
    assert abs(changes[3:5]).max() <= 1e-9
    np.testing.assert_allclose(changes[6], changes[5], atol=1e-9)
    assert [each.relabelled for each in result][:2] == [(), (5,)]
    assert [each.replaced for each in result][-3:] == [(5, 9), (), (5,)]
    assert result.counterfactuals[5].reweighted == (9,)
    assert "relabelled 5" in str(result)
    assert client.jobs.get(job.name).spec["counterfactuals"][0]["relabelled"] == [5]


@pytest.mark.parametrize(
    ("edit", "field", "says"),
    [
        (undue.Edit(relabel={3: 10}), "counterfactuals[0].relabel", "label"),
        (undue.Edit(replace={3: np.zeros(7)}), "counterfactuals[0].replace", "shape"),
        (undue.Edit(relabel={10**6: 1}), "relabelled", "does not exist"),
    ],
)
def test_edits_that_cannot_be(client, registered, edit, field, says):
    with pytest.raises((undue.InvalidArgument, undue.JobFailed), match=says) as error:
        client.retrain(
            registered.model, train=registered.train, test=registered.test, rows=[0], counterfactuals=[edit]
        ).result(timeout=200)
    assert field in str(error.value)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pages_are_the_stream(stub, measured, size):
    measured.wait(timeout=200)
    stream = list(stub.ReadCounterfactuals(jobs_pb2.ReadCounterfactualsRequest(name=measured.name)))
    assert [one.index for one in stream] == list(range(REMOVED))
    listed, token, first = [], "", None
    while first is None or token:
        request = jobs_pb2.ListCounterfactualsRequest(parent=measured.name, page_size=size, page_token=token)
        page = stub.ListCounterfactuals(request)
        if first is None:
            first = page
        else:
            assert not page.rows
            assert not page.costs
        assert len(page.counterfactuals) <= size
        listed += page.counterfactuals
        token = page.next_page_token
    assert listed == stream
    assert list(first.rows) == list(range(100))
    assert len(first.costs) == 100


def test_results_of_another_kind_are_refused(stub, measured):
    measured.wait(timeout=200)
    with pytest.raises(grpc.RpcError) as error:
        stub.ListExplanations(jobs_pb2.ListExplanationsRequest(parent=measured.name))
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_network_is_told_what_to_select(client, digits, registered):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10)).double()
    objective = undue.Objective("cross_entropy", l2=1e-2)
    arguments = {"objective": objective, "example_inputs": torch.as_tensor(digits.X_train[:2])}
    with pytest.warns(undue.ModelWarning):
        whole = client.models.register("network", network, **arguments)
    with pytest.warns(undue.ModelWarning):
        last = client.models.register("last", network, **arguments, parameters=["2.*"])
    ask = {"train": registered.train, "test": registered.test, "rows": [0], "without": [[1, 2]]}
    with pytest.raises(undue.FailedPrecondition, match="parameters=") as error:
        client.retrain(whole, **ask)
    assert error.value.reason == "RECIPE_MISSING"
    assert client.retrain(last, **ask).result(timeout=200).diagnostics.residual <= 1e-10
    with pytest.raises(undue.InvalidArgument, match="99999") as error:
        client.retrain(last, **ask | {"without": [[0], [99999]]})
    assert error.value.reason == "ROW_OUT_OF_RANGE"


def test_a_retrain_job_is_cancelled_in_the_middle(client, registered):
    sets = [[row] for row in range(1200)] * 4
    job = client.retrain(registered.model, train=registered.train, test=registered.test, rows=[0], without=sets)
    for step in job.watch():
        if step.stage == "fits without rows" and step.done > 0:
            assert (step.done % 64, step.total) == (0, len(sets))
            job.cancel()
            break
    with pytest.raises(undue.Cancelled):
        job.result(timeout=60)


@pytest.mark.parametrize("method", ["exact", "cg", "grad_dot", "grad_cos"])
def test_the_mean_over_test_rows(client, registered, method):
    rows = [3, 8, 250]
    ask = {"train": registered.train, "test": registered.test, "method": method}
    each = client.influence(registered.model, **ask, rows=rows, top_k=None).result(timeout=200)
    mean = client.influence(registered.model, **ask, rows=rows, top_k=None, aggregate="mean").result(timeout=200)
    assert mean.scores.shape == (1, each.scores.shape[1])
    if method != "grad_cos":
        assert abs(mean.scores[0] - each.scores.mean(axis=0)).max() < 1e-6 * abs(mean.scores).max()
    [explained] = mean.explanations
    assert explained.rows == (3, 8, 250)
    assert (explained.prediction, explained.target) == (None, None)
    assert explained.loss == pytest.approx(np.mean([one.loss for one in each]))
    assert explained.helpful[0].row == int(mean.scores[0].argmax())
    assert "mean over 3 test rows" in str(mean)
    assert "mean over 3 test rows" in mean.diagnostics.estimand


def test_the_mean_over_the_whole_test_set(client, registered, digits):
    job = client.influence(
        registered.model, train=registered.train, test=registered.test, aggregate="mean", top_k=3, measurement="margin"
    )
    [explained] = job.result(timeout=200)
    assert explained.rows == tuple(range(len(digits.X_test)))
    assert len(explained.helpful) == len(explained.harmful) == 3
    assert job.spec["aggregate"] == "mean"


def test_from_the_command_line(client, registered):
    def run(*words):
        environment = os.environ | {"UNDUE_ADDRESS": client.address}
        command = [sys.executable, "-m", "undue.cli.main", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    data = ["--train", registered.train.name, "--test", registered.test.name]
    names = [registered.model.name, *data, "--rows", "0", "1"]
    found = json.loads(run("retrain", *names, "--without", "1,2,3", "--without", "7", "--json"))
    assert [each["without"] for each in found["counterfactuals"]] == [[1, 2, 3], [7]]
    assert all(len(each["changes"]) == 2 for each in found["counterfactuals"])
    assert found["rows"] == [0, 1]
    assert "without" in run("retrain", *names, "--without", "1,2,3")
    explained = json.loads(run("influence", *names, "--aggregate", "mean", "--json"))
    assert [each["rows"] for each in explained["explanations"]] == [[0, 1]]
