"""Groups of training rows behind some predictions, and models side by side, through the service."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import undue
from conftest import L2, fit_softmax

N, M = 300, 60


@pytest.fixture(scope="module")
def bench(client, digits):
    """A softmax regression at its minimum on digits of three sites, one of which has many labels wrong; a network."""
    X, y = digits.X_train[:N], digits.y_train[:N].copy()
    site = np.array(["north", "south", "west"])[np.arange(N) % 3]
    rng = np.random.default_rng(0)
    west = np.flatnonzero(site == "west")
    turned = rng.choice(west, 40, replace=False)
    y[turned] = (y[turned] + 1) % 10
    head = fit_softmax(X, y, L2, 10)
    groups = {"site": site, "wrong": np.isin(np.arange(N), turned).astype(np.int64)}
    train = client.datasets.register("sites", undue.Arrays(inputs=X, targets=y, groups=groups))
    test = client.datasets.register("sites-test", undue.Arrays(inputs=digits.X_test[:M], targets=digits.y_test[:M]))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10)).double()
    asked = {"sample": train, "example_inputs": torch.as_tensor(X[:2])}
    objective = undue.Objective("cross_entropy", l2=L2)
    recipe = undue.Training("adam", 1e-2, epochs=5, batch_size=50)
    return SimpleNamespace(
        client=client,
        train=train,
        test=test,
        X=X,
        y=y,
        X_test=digits.X_test[:M],
        turned=turned,
        site=site,
        model=client.models.register("sites", head, objective=objective, **asked),
        net=client.models.register("sites-net", net, objective=objective, training=recipe, **asked),
        bare=client.models.register("sites-bare", net, objective=objective, **asked),
    )


@pytest.fixture(scope="module")
def groups(bench):
    return bench.client.group_influence(
        bench.model,
        train=bench.train,
        test=bench.test,
        rows=range(20),
        by=["site", "wrong"],
        reweight={("wrong", "1"): [0, 0.5], ("site", "north"): 0},
    )


def test_shares_are_sums_of_influence(bench, groups):
    found = groups.result(timeout=100)
    one = bench.client.influence(
        bench.model, train=bench.train, test=bench.test, rows=range(20), aggregate="mean", top_k=None
    ).result(timeout=100)
    scores = one.scores[0].astype(np.float64)
    assert {(each.column, each.group) for each in found} == {
        ("site", "north"), ("site", "south"), ("site", "west"), ("wrong", "0"), ("wrong", "1"),
    }  # fmt: skip
    for name in ("north", "south", "west"):
        share, rows = found.of(name), bench.site == name
        assert share.rows == rows.sum() == 100
        assert share.score.value == pytest.approx(scores[rows].sum(), rel=1e-4)
        assert share.share == pytest.approx(np.abs(scores[rows]).sum() / np.abs(scores).sum(), rel=1e-5)
        assert share.excess.value == pytest.approx(3 * share.share, rel=1e-9)
        assert [each.row for each in share.examples] == sorted(
            np.flatnonzero(rows).tolist(), key=lambda row: -abs(scores[row])
        )[:10]
    assert found.of("1", "wrong").excess.low > 1.3  # the wrong labels count for more than their share
    assert found.score == pytest.approx(scores.sum(), rel=1e-4)
    assert [each.row for each in found.explanation.helpful] == [each.row for each in one.explanations[0].helpful]
    assert found.explanation.helpful[0].example.inputs[""] == pytest.approx(bench.X[found.explanation.helpful[0].row])
    assert found.diagnostics.estimand == one.diagnostics.estimand


def test_effects_are_what_retraining_measures(bench, groups):
    found = groups.result()
    removed = bench.client.retrain(bench.model, train=bench.train, test=bench.test, without=[bench.turned.tolist()])
    measured = removed.result(timeout=100)
    gone, half, north = found.effects
    assert [(each.group, each.factor) for each in found.effects] == [("1", 0), ("1", 0.5), ("north", 0)]
    assert gone.on_rows.measured == pytest.approx(measured.changes[0, :20].mean(), rel=1e-6)
    assert gone.on_rest.measured == pytest.approx(measured.changes[0, 20:].mean(), rel=1e-6)
    assert gone.on_rest.accuracy_after >= gone.on_rest.accuracy  # without wrong labels it is right more often
    assert gone.on_rest.measured < half.on_rest.measured < 0
    assert gone.on_rest.corrected == pytest.approx(gone.on_rest.measured, rel=0.5)
    assert north.on_rest.measured > 0
    assert found.rest_rows == M - 20
    assert groups.kind == "group_influence"
    assert groups.spec["reweight"][0] == {"column": "wrong", "group": "1", "factor": 0.0}


def test_a_network_is_retrained_by_its_recipe_or_not_at_all(bench):
    asked = {"train": bench.train, "test": bench.test, "rows": [0, 1], "by": "wrong"}
    found = bench.client.group_influence(bench.net, **asked, reweight=1).result(timeout=100)
    assert [each.factor for each in found.effects] == [0, 2]
    assert "Adam" in found.recipe
    assert found.effects[0].on_rows.corrected is None
    with pytest.raises(undue.FailedPrecondition) as caught:
        bench.client.group_influence(bench.bare, **asked)
    assert caught.value.reason == "RECIPE_MISSING"
    assert bench.client.group_influence(bench.bare, **asked, reweight=None).result(timeout=100).effects == ()


@pytest.mark.parametrize(
    ("change", "error", "reason", "says"),
    [
        ({"by": "colour"}, undue.InvalidArgument, "COLUMN_NOT_FOUND", "'site', 'wrong'"),
        ({"rows": [99]}, undue.InvalidArgument, "ROW_OUT_OF_RANGE", "99"),
        ({"reweight": {"east": 0}}, undue.JobFailed, "INVALID_FIELD", "'north', 'south', 'west'"),
        ({"reweight": {"west": 0, "north": 0, "south": 0}}, None, None, None),
    ],
)
def test_what_cannot_be_asked_of_groups(bench, change, error, reason, says):
    asked = {"train": bench.train, "test": bench.test, "rows": [0], "by": "site"} | change
    if error is None:
        assert len(bench.client.group_influence(bench.model, **asked).result(timeout=100).effects) == 3
        return
    with pytest.raises(error, match=says) as caught:
        bench.client.group_influence(bench.model, **asked).result(timeout=100)
    assert caught.value.reason == reason


def test_two_models_are_held_side_by_side(bench):
    job = bench.client.compare(
        bench.model, bench.net, train=bench.train, test=bench.test, rows=[3, 8], top_k=5, scatter=20
    )
    found = job.result(timeout=100)
    assert [row.row for row in found] == [3, 8]
    assert (found.diagnostics.method, found.other_diagnostics.method) == ("exact", "gauss_newton")
    assert found.distance_inputs == ("",)
    assert job.spec["other"] == bench.net.name
    assert found.diagnostics.digests["model"] != found.other_diagnostics.digests["model"]
    for model, side, method in ((bench.model, "view", "exact"), (bench.net, "other", "gauss_newton")):
        alone = bench.client.influence(
            model, train=bench.train, test=bench.test, rows=[3, 8], top_k=None, method=method
        ).result(timeout=100)
        for t, (row, one) in enumerate(zip(found, alone.explanations, strict=True)):
            view = getattr(row, side)
            assert [each.row for each in view.helpful] == [each.row for each in one.helpful[:5]]
            assert (view.prediction, view.loss) == (one.prediction, pytest.approx(one.loss))
            scores = row.scatter.scores if side == "view" else row.scatter.other_scores
            np.testing.assert_allclose(scores, alone.scores[t][row.scatter.rows], rtol=1e-5, atol=1e-12)
            assert set(view.ablations) == {"no_curvature", "no_loss", "neither"}
            assert -1 <= view.nearness.spearman <= 1
    for t, row in enumerate(found):
        near = np.linalg.norm(bench.X[row.scatter.rows] - bench.X_test[[3, 8][t]], axis=1)
        np.testing.assert_allclose(row.scatter.distances, near, rtol=1e-5)
        lists = [{each.row for each in view.helpful} for view in (row.view, row.other)]
        assert row.agreement.jaccard_helpful == len(lists[0] & lists[1]) / len(lists[0] | lists[1])


def test_the_same_model_agrees_with_itself(bench):
    asked = {"train": bench.train, "test": bench.test, "rows": [0], "ablation": False, "distance": False}
    [row] = bench.client.compare(bench.model, bench.model, **asked).result(timeout=100)
    assert (row.agreement.jaccard_helpful, row.agreement.spearman) == (1, pytest.approx(1))
    assert (row.view.ablations, row.view.nearness, row.scatter.distances) == ({}, None, None)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"other": "none"}, undue.NotFound, "RESOURCE_NOT_FOUND"),
        ({"distance": ["pixels"]}, undue.JobFailed, "INPUT_MISMATCH"),
        ({"rows": [99]}, undue.InvalidArgument, "ROW_OUT_OF_RANGE"),
        ({"method": "tarot"}, undue.InvalidArgument, "METHOD_UNKNOWN"),
    ],
)
def test_what_cannot_be_compared(bench, change, error, reason):
    asked = {"train": bench.train, "test": bench.test, "rows": [0]} | change
    with pytest.raises(error) as caught:
        bench.client.compare(bench.model, **asked).result(timeout=100)
    assert caught.value.reason == reason


def test_estimates_and_the_command_line(bench):
    of = {"train": bench.train, "test": bench.test}
    assert bench.client.estimate(bench.net, **of, rows=[0], by="site").seconds > 0
    one, both = (bench.client.estimate(bench.model, **of, rows=[0], other=other) for other in (None, bench.net))
    assert both.seconds > one.seconds
    words = ["--train", bench.train.name, "--test", bench.test.name, "--rows", "0,1", "--by", "site"]
    command = [sys.executable, "-m", "undue.cli.main", "--server", bench.client.address, "group-influence"]
    done = subprocess.run(
        [*command, bench.model.name, *words, "--reweight", "west=0", "--json"],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["group"] for each in found["effects"]] == ["west"]
    assert len(found["groups"]) == 3
