"""Scores held against retraining through the service, closed forms of linear models, retraining by a recipe."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import torch

import undue
from undue.v1 import jobs_pb2, jobs_pb2_grpc

N, M = 400, 20
RECIPE = {"optimizer": "adam", "lr": 1e-2, "epochs": 25, "batch_size": 100, "seed": 3}


@pytest.fixture(scope="module")
def network(client, digits):
    """A small network, trained by the very recipe that it is registered with, from the weights that it names."""
    torch.manual_seed(0)
    X, y = digits.X_train[:N], digits.y_train[:N]
    inputs, targets = torch.as_tensor(X), torch.as_tensor(y)
    net = torch.nn.Sequential(torch.nn.Linear(64, 12), torch.nn.Tanh(), torch.nn.Linear(12, 10)).double()
    init = {name: value.detach().numpy().copy() for name, value in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), lr=RECIPE["lr"], weight_decay=1e-3)
    generator = torch.Generator().manual_seed(RECIPE["seed"])
    for _ in range(RECIPE["epochs"]):
        for rows in torch.randperm(N, generator=generator).split(RECIPE["batch_size"]):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    train = client.datasets.register("few-digits", undue.Arrays(inputs=X, targets=y))
    test = client.datasets.register(
        "few-digits-test", undue.Arrays(inputs=digits.X_test[:M], targets=digits.y_test[:M])
    )
    ask = {
        "objective": undue.Objective("cross_entropy", l2=1e-3),
        "sample": train,
        "example_inputs": inputs[:2],
    }
    recipe = undue.Training(RECIPE["optimizer"], **{k: v for k, v in RECIPE.items() if k != "optimizer"}, init=init)
    model = client.models.register("few-digits", net, **ask, training=recipe)
    bare = client.models.register("few-digits-bare", net, **ask)
    return SimpleNamespace(net=net, train=train, test=test, model=model, bare=bare)


@pytest.fixture(scope="module")
def loo(client, registered):
    job = client.fidelity(
        registered.model, train=registered.train, test=registered.test, rows=range(50), samples=30, method="exact"
    )
    return job, job.result(timeout=200)


def test_exact_scores_of_a_linear_head_are_what_retraining_measures(client, registered, loo, capsys):
    job, found = loo
    with capsys.disabled():
        print(f"\n{found}")
    assert isinstance(job, undue.FidelityJob)
    assert isinstance(client.jobs.get(job.name), undue.FidelityJob)
    assert found.kind == "loo"
    assert found.pearson.value >= 0.99
    assert found.pearson.low <= found.pearson.value <= found.pearson.high
    assert found.spearman.value >= 0.99
    assert 0.97 < found.slope.value < 1.03
    assert found.lds is None
    assert found.subsets is None
    assert len(found.strata) == 5
    assert [each.low for each in found.strata] == sorted(each.low for each in found.strata)
    assert found.predicted.shape == found.measured.shape == (60, 50)
    assert (found.stratum == -1).sum() == 30
    assert "1/n" in found.recipe
    assert found.diagnostics.method == "exact"
    assert found.diagnostics.fidelity == found.finding
    # What was compared is what the other jobs say.
    ask = {"train": registered.train, "test": registered.test, "rows": range(50)}
    few = [0, 7, 31, 59]
    fits = client.retrain(registered.model, **ask, without=[[row] for row in found.without[few]]).result(timeout=200)
    np.testing.assert_allclose(found.measured[few], fits.changes, rtol=1e-5, atol=1e-11)
    scores = client.influence(registered.model, **ask, method="exact", top_k=None).result(timeout=200).scores
    np.testing.assert_allclose(found.predicted[few], scores[:, found.without[few]].T, rtol=1e-6, atol=0)


def test_a_fidelity_result_shows_itself(loo):
    _, found = loo
    text = str(found)
    assert "random rows" in text.splitlines()[1]
    assert text.count("rows with |score|") == 5
    assert repr(found).startswith("<FidelityResult: Pearson 0.99") or repr(found).startswith(
        "<FidelityResult: Pearson 1."
    )
    assert "60 retrainings, 50 test rows, method exact" in repr(found)
    frame = found.to_pandas()
    assert list(frame.columns) == ["retraining", "without", "stratum", "test_row", "predicted", "measured"]
    assert len(frame) == 60 * 50
    drawn = frame[frame.stratum.isna()]
    assert abs(np.corrcoef(drawn.predicted, drawn.measured)[0, 1] - found.pearson.value) < 1e-9


def test_the_same_seed_draws_the_same_rows(client, registered):
    ask = {"train": registered.train, "test": registered.test, "rows": [1, 2], "samples": 10, "method": "grad_dot"}
    one, again, other = (client.fidelity(registered.model, **ask, seed=seed) for seed in (4, 4, 5))
    one, again, other = (job.result(timeout=200) for job in (one, again, other))
    assert np.array_equal(one.without, again.without)
    assert one.pearson == again.pearson
    assert not np.array_equal(one.without, other.without)
    assert any("slope" in warning for warning in one.finding.warnings)  # grad_dot's scores have no unit


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pages_are_the_stream(client, loo, size):
    job, found = loo
    with grpc.insecure_channel(client.address) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        stream = list(stub.ReadComparisons(jobs_pb2.ReadComparisonsRequest(name=job.name)))
        listed, token, rows = [], None, []
        while token is None or token:
            page = stub.ListComparisons(
                jobs_pb2.ListComparisonsRequest(parent=job.name, page_size=size, page_token=token or "")
            )
            assert len(page.comparisons) <= size
            rows += page.rows
            listed += page.comparisons
            token = page.next_page_token
        with pytest.raises(grpc.RpcError) as error:
            stub.ListExplanations(jobs_pb2.ListExplanationsRequest(parent=job.name))
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert listed == stream
    assert rows == list(range(50))
    assert [one.index for one in stream] == list(range(60))
    assert [list(one.measured) for one in stream] == found.measured.tolist()


def test_scores_of_a_network_against_training_it_again(client, network, capsys):
    ask = {"train": network.train, "test": network.test, "method": "cg", "damping": 0.03}
    found = client.fidelity(network.model, **ask, kind="lds", samples=20).result(timeout=400)
    with capsys.disabled():
        print(f"\n{found}")
    assert found.kind == "lds"
    assert found.subsets.shape == (20, N // 2)
    assert found.without is None
    assert found.predicted.shape == (20, M)
    assert found.lds.value == found.spearman.value
    assert found.lds.value > 0.2
    assert "recipe's initial weights" in found.recipe
    assert "1/|S|" in found.recipe
    worse = client.fidelity(network.model, **ask | {"method": "grad_dot", "damping": None}, kind="lds", samples=20)
    assert worse.result(timeout=400).lds.value < found.lds.value
    warm = client.fidelity(network.model, **ask, samples=8, start="warm", seeds=2).result(timeout=400)
    assert "from the registered weights" in warm.recipe
    assert "mean over the seeds 3 to 4" in warm.recipe
    assert warm.pearson.value > 0.5


def test_a_network_trained_by_its_recipe_ends_where_it_was_registered(client, network):
    ask = {"train": network.train, "test": network.test, "without": [[0], [1, 2]]}
    cold = client.retrain(network.model, **ask, start="cold").result(timeout=200)
    explained = client.influence(network.model, train=network.train, test=network.test, method="grad_dot").result()
    np.testing.assert_allclose(cold.costs, [each.loss for each in explained], rtol=1e-6)
    assert abs(cold.changes).max() > 0
    assert [each.iterations for each in cold] == [100, 100]
    assert cold.diagnostics.solver == "adam"
    assert cold.diagnostics.seed == RECIPE["seed"]
    job = client.retrain(network.model, **ask, start="warm", seeds=2)
    assert (job.spec["start"], job.spec["seeds"]) == ("warm", 2)
    warm = job.result(timeout=200)
    assert not np.allclose(warm.costs, cold.costs)


def test_what_cannot_be_trained_again_is_refused_before_it_is_queued(client, network, registered):
    ask = {"train": network.train, "test": network.test, "rows": [0]}
    before = len(list(client.jobs.list()))
    for call in (
        lambda: client.retrain(network.bare, **ask, without=[[0]]),
        lambda: client.fidelity(network.bare, **ask, method="cg"),
        lambda: client.influence(network.bare, **ask, method="cg", fidelity=True),
    ):
        with pytest.raises(undue.FailedPrecondition, match="training=") as error:
            call()
        assert error.value.reason == "RECIPE_MISSING"
    with pytest.raises(undue.InvalidArgument, match="leave tolerance out"):
        client.retrain(network.model, **ask, without=[[0]], tolerance=1e-6)
    with pytest.raises(undue.InvalidArgument, match="leave aggregate out"):
        client.influence(registered.model, **ask, aggregate="mean", fidelity=True)
    with pytest.raises(undue.InvalidArgument) as error:
        client.fidelity(network.model, **ask, method="exact", tolerance=1e-3)
    assert error.value.violations[0].field == "job.fidelity.tolerance"
    with pytest.raises(undue.FailedPrecondition, match="not linear") as error:
        client.leverage(network.model, train=network.train)
    assert error.value.reason == "LEVERAGE_UNAVAILABLE"
    assert len(list(client.jobs.list())) == before


def test_influence_brings_its_own_fidelity(client, registered):
    ask = {"train": registered.train, "test": registered.test, "rows": [3, 1, 4], "method": "exact", "top_k": 4}
    settings = undue.FidelitySettings(samples=12, strata=2, seed=9)
    plain = client.influence(registered.model, **ask).result(timeout=200)
    job = client.influence(registered.model, **ask, fidelity=settings)
    assert job.spec["fidelity"]["protocol"] == "loo"
    assert job.spec["fidelity"]["samples"] == 12
    found = job.result(timeout=200)
    assert plain.diagnostics.fidelity is None
    assert found.scores is None
    assert found.explanations == plain.explanations
    finding = found.diagnostics.fidelity
    assert finding.agreement.retrainings == 12
    assert finding.agreement.pearson.value > 0.99
    assert len(finding.strata) == 2
    assert "against 12 retrainings: Pearson" in str(found)
    alone = client.fidelity(
        registered.model, **{k: v for k, v in ask.items() if k != "top_k"}, samples=12, strata=2, seed=9
    )
    assert alone.result(timeout=200).finding.agreement == finding.agreement


def test_a_long_fidelity_job_is_cancelled_in_the_middle(client, registered):
    job = client.fidelity(
        registered.model, train=registered.train, test=registered.test, rows=[0], samples=1600, method="grad_dot"
    )
    for step in job.watch():
        if step.stage == "fits without rows" and step.done > 0:
            job.cancel()
            break
    with pytest.raises(undue.Cancelled):
        job.result(timeout=60)
    # The runner is free again.
    client.influence(registered.model, train=registered.train, test=registered.test, rows=[0]).result(timeout=60)


@pytest.fixture(scope="module")
def line(client):
    """A least-squares line through three features, with ids."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 3))
    y = X @ [1.0, -2.0, 0.5] + 0.3 + rng.normal(scale=0.2, size=60)
    design = np.column_stack([X, np.ones(60)])
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    net = torch.nn.Linear(3, 1).double()
    with torch.no_grad():
        net.weight[:] = torch.as_tensor(beta[None, :3])
        net.bias[:] = beta[3]
    data = client.datasets.register("line", undue.Arrays(inputs=X, targets=y, ids=[f"p{i}" for i in range(60)]))
    objective = undue.Objective("squared_error")
    model = client.models.register("line", net, objective=objective, sample=data, example_inputs=torch.as_tensor(X[:2]))
    return SimpleNamespace(design=design, y=y, beta=beta, data=data, model=model)


def test_leverage_of_a_regression_is_the_hat_matrix(client, line):
    job = client.leverage(line.model, train=line.data, dfbeta=True)
    found = job.result(timeout=100)
    assert isinstance(client.jobs.get(job.name), undue.LeverageJob)
    G = np.linalg.inv(line.design.T @ line.design)
    h = np.einsum("ij,jk,ik->i", line.design, G, line.design)
    residual = line.y - line.design @ line.beta
    s2 = residual @ residual / (60 - 4)
    np.testing.assert_allclose(found.leverage, h, rtol=1e-8)
    np.testing.assert_allclose(found.cooks_distance, residual**2 * h / (4 * s2 * (1 - h) ** 2), rtol=1e-7)
    assert found.coefficients == ("weight[0, 0]", "weight[0, 1]", "weight[0, 2]", "bias[0]")
    np.testing.assert_allclose(found.dfbeta, (line.design @ G) * (residual / (1 - h))[:, None], rtol=1e-6, atol=1e-10)
    assert found.effective_parameters == pytest.approx(4)
    assert found.variance == pytest.approx(s2)
    assert found.ids[:2] == ("p0", "p1")
    assert found.rows.tolist() == list(range(60))
    frame = found.to_pandas()
    assert list(frame.columns)[:5] == ["train_row", "id", "leverage", "cooks_distance", "dfbeta weight[0, 0]"]
    assert str(found).splitlines()[1].split()[0] == str(int(found.cooks_distance.argmax()))
    assert "DFBETA of 4 coefficients" in repr(found)
    plain = client.leverage(line.model, train=line.data).result(timeout=100)
    assert plain.dfbeta is None
    assert plain.coefficients == ()
    assert np.array_equal(plain.leverage, found.leverage)


def test_leverage_of_digits_comes_in_blocks(client, registered, digits):
    found = client.leverage(registered.model, train=registered.train, dfbeta=True).result(timeout=200)
    assert found.dfbeta.shape == (len(digits.X_train), 650)
    assert found.leverage.sum() == pytest.approx(found.effective_parameters)
    assert ((found.leverage > 0) & (found.leverage < 10)).all()
    assert found.variance == 1.0
    # Without the row the coefficients are less by DFBETA: the score of a test row is −∇m · DFBETA to first order.
    scores = client.influence(
        registered.model, train=registered.train, test=registered.test, rows=[0], method="exact", top_k=None
    ).result(timeout=200)
    net = digits.model
    loss = torch.nn.functional.cross_entropy(
        net(torch.as_tensor(digits.X_test[:1])), torch.as_tensor(digits.y_test[:1])
    )
    gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(net.parameters()))]).numpy()
    by_name = dict(zip(found.coefficients, found.dfbeta.T, strict=True))
    names = [f"weight[{c}, {j}]" for c in range(10) for j in range(64)] + [f"bias[{c}]" for c in range(10)]
    moved = -sum(by_name[name] * slope for name, slope in zip(names, gradient, strict=True))
    assert abs(moved - scores.scores[0]).max() < 1e-6 * abs(moved).max()


def test_from_the_command_line(client, registered, line):
    def run(*words):
        environment = os.environ | {"UNDUE_ADDRESS": client.address}
        command = [sys.executable, "-m", "undue.cli.main", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    data = ["--train", registered.train.name, "--test", registered.test.name, "--rows", "0", "1"]
    words = ["fidelity", registered.model.name, *data, "--samples", "10", "--strata", "2", "--method", "exact"]
    found = json.loads(run(*words, "--json"))
    assert found["kind"] == "loo"
    assert found["pearson"]["value"] > 0.99
    assert len(found["without"]) == len(found["measured"]) == 20
    assert found["strata"][0]["agreement"]["retrainings"] == 5
    assert "random rows" in run(*words)
    assert json.loads(run(*words, "--estimate", "--json"))["seconds"] > 0
    text = run("influence", registered.model.name, *data, "--fidelity")
    assert "against 50 retrainings: Pearson" in text
    leverage = ["leverage", line.model.name, "--train", line.data.name]
    assert len(json.loads(run(*leverage, "--dfbeta", "--json"))["dfbeta"]) == 60
    assert "cooks_distance" in run(*leverage)
    assert json.loads(run(*leverage, "--estimate", "--json"))["rows"] == 60
