"""Attacks through the service: flips, poisoned rows, a runner that is killed between iterations, cancelling."""

import itertools
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from sklearn.datasets import load_breast_cancer

import undue
from conftest import fit_softmax

L2, N = 1e-3, 400
BALL = {"bound": "linf", "radius": 100.0, "step": 10.0, "iterations": 12, "candidates": 4}


@pytest.fixture(scope="module")
def bench(client):
    """A linear model of breast cancer of features in 256 levels from 0 to 1."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (np.round(255 * (X - X.min(axis=0)) / (X.max(axis=0) - X.min(axis=0))) / 255).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    net = fit_softmax(X[:N].astype(np.float64), y[:N], L2, 2).float()
    train = client.datasets.register("cancer-train", undue.Arrays(inputs=X[:N], targets=y[:N]))
    test = client.datasets.register("cancer-test", undue.Arrays(inputs=X[N:], targets=y[N:]))
    ask = {"objective": undue.Objective("cross_entropy", l2=L2), "sample": train}
    model = client.models.register("cancer", net, example_inputs=torch.as_tensor(X[:2]), **ask)
    predicted = net(torch.as_tensor(X[N:])).detach()
    right = (predicted.argmax(dim=1).numpy() == y[N:]).nonzero()[0]
    margins = (predicted[:, 1] - predicted[:, 0]).abs().numpy()
    near = right[np.argsort(margins[right])]
    wrong = (predicted.argmax(dim=1).numpy() != y[N:]).nonzero()[0]
    return SimpleNamespace(
        client=client, model=model, train=train, test=test, X=X, y=y, near=near.tolist(), wrong=wrong.tolist()
    )


@pytest.fixture(scope="module")
def found(bench):
    rows = [*bench.near[:6], bench.near[-1], bench.wrong[0]]
    limits = {"minimum": 0.0, "maximum": 1.0, "fixed": [3, 23]}
    job = bench.client.perturb(bench.model, train=bench.train, test=bench.test, rows=rows, **BALL, **limits)
    return job, job.result(timeout=120)


def test_predictions_near_the_boundary_flip_and_random_signs_flip_fewer(bench, found, capsys):
    job, result = found
    with capsys.disabled():
        print(f"\n{result}")
    assert isinstance(job, undue.PerturbJob)
    assert isinstance(bench.client.jobs.get(job.name), undue.PerturbJob)
    assert (len(result), result.flipped.total, result.already_wrong) == (8, 7, 1)
    assert result.share_flipped > result.control.value
    assert result.interval[0] < result.share_flipped <= result.interval[1]
    assert result.attacks[7].targets[0].already_wrong
    assert not result.attacks[7].rows
    assert result.flips[-1] == result.flipped.count + result.unconfirmed
    assert (result.diagnostics.seed, result.diagnostics.dtype) == (0, "float32")
    assert set(result.diagnostics.digests) == {"model", "train", "test", "code"}
    for one in result.attacks[:7]:
        assert one.costs[-1] > one.costs[0]
        assert one.flipped == all(target.confirmed for target in one.targets)


def test_a_flip_is_what_training_on_the_poisoned_rows_gives(bench, found):
    _, result = found
    one = next(each for each in result if each.flipped)
    poisoned = result.poisoned(one.index)
    assert (poisoned.rows, poisoned.values.dtype) == (tuple(each.row for each in one.rows), np.float32)
    X, rows = bench.X[:N].copy(), list(poisoned.rows)
    moved = (poisoned.values - X[rows]) * 255
    np.testing.assert_allclose(np.abs(moved).max(axis=1), [each.linf for each in one.rows], atol=1e-3)
    assert np.abs(moved).max() <= BALL["radius"] + 1e-3
    assert not moved[:, [3, 23]].any()
    assert (poisoned.values.min() >= 0, poisoned.values.max() <= 1) == (True, True)
    X[rows] = poisoned.values
    [target] = one.targets
    row = torch.as_tensor(bench.X[N + target.row], dtype=torch.float64)
    for inputs, right in ((bench.X[:N], True), (X, False)):
        net = fit_softmax(inputs.astype(np.float64), bench.y[:N], L2, 2)
        assert (int(net(row).argmax()) == bench.y[N + target.row]) == right


def test_an_attack_on_several_rows_at_once(bench):
    rows = [bench.near[:3], [bench.near[3]]]
    ask = {"train": bench.train, "test": bench.test, "control": False, "confirm": False}
    result = bench.client.perturb(bench.model, rows=rows, **ask, **BALL).result(timeout=120)
    assert [[target.row for target in one.targets] for one in result] == rows
    assert result.control is None
    assert {target.confirmed for one in result for target in one.targets} == {None}
    frame = result.to_pandas()
    assert frame.attack.tolist() == [0, 0, 0, 1]
    one, other = (bench.client.perturb(bench.model, rows=[row], **ask, **BALL).result(timeout=120) for row in rows)
    assert one.attacks[0].rows == result.attacks[0].rows
    np.testing.assert_allclose(other.attacks[0].costs, result.attacks[1].costs, rtol=1e-5)


def test_pixels_stay_in_their_levels_unless_told_otherwise(bench):
    ask = {"train": bench.train, "test": bench.test, "rows": bench.near[:1], "iterations": 40, "control": False}
    result = bench.client.perturb(bench.model, **ask).result(timeout=120)
    poisoned = result.poisoned(0)
    before = bench.X[list(poisoned.rows)] * 255
    assert np.array_equal(np.round(poisoned.values * 255), np.round(before))


def long(bench, **change):
    """Start attacks with steps so short that all iterations are spent."""
    ask = {"train": bench.train, "test": bench.test, "rows": bench.near[-6:], "iterations": 400, "step": 0.001}
    return bench.client.perturb(bench.model, bound="l2", radius=100.0, **{**ask, **change})


def stages(job, into):
    """Follow a job from another thread."""
    thread = threading.Thread(target=lambda: into.extend(job.watch()), daemon=True)
    thread.start()
    return thread


def runner_at(bench, job, done):
    """Return the process that works on a job once it has made so many iterations."""
    for step in itertools.takewhile(lambda step: not step.state.ended, job.watch()):
        if step.stage.startswith("attacking") and step.done >= done:
            [runner] = [each for each in bench.client.server_info().runners if each.lane == "batch"]
            return runner.pid
    raise AssertionError("it ended before that")


def test_a_runner_that_is_killed_between_iterations_costs_at_most_one(bench):
    whole = long(bench, control=False).result(timeout=200)
    job = long(bench, control=False)
    os.kill(runner_at(bench, job, 10), signal.SIGKILL)
    seen = []
    following = stages(bench.client.jobs.get(job.name), seen)
    again = job.result(timeout=200)
    following.join(timeout=30)
    job.refresh()
    assert (job.attempt, job.state) == (2, "SUCCEEDED")
    assert str(again.attacks) == str(whole.attacks)
    assert again.flips == whole.flips
    for one in whole.attacks:
        if one.rows:
            assert np.array_equal(again.poisoned(one.index).values, whole.poisoned(one.index).values)
    resumed = [step.done for step in seen if step.stage.startswith("attacking") and step.total]
    assert min(resumed) >= 10
    assert "of 6 flipped" in next(step.stage for step in seen if step.stage.startswith("attacking"))


def test_cancelling_takes_no_longer_than_an_iteration(bench):
    job = long(bench)
    runner = runner_at(bench, job, 5)
    began = time.monotonic()
    job.cancel()
    with pytest.raises(undue.Cancelled):
        job.result(timeout=30)
    while psutil.pid_exists(runner) and time.monotonic() < began + 20:
        time.sleep(0.02)
    assert not psutil.pid_exists(runner)


@pytest.mark.parametrize(
    ("change", "kind", "reason", "text"),
    [
        ({"candidates": N + 1}, undue.InvalidArgument, "INVALID_FIELD", "400 training rows"),
        ({"rows": [10_000]}, undue.InvalidArgument, "ROW_OUT_OF_RANGE", "row 10000 does not exist"),
        ({"candidate_rows": [N]}, undue.InvalidArgument, "ROW_OUT_OF_RANGE", "row 400 does not exist"),
        ({"fixed": range(30)}, undue.InvalidArgument, "INVALID_FIELD", "nothing is left"),
        ({"minimum": [0.0] * 31}, undue.InvalidArgument, "INVALID_FIELD", "has 30"),
        ({"input_name": "tokens"}, undue.InvalidArgument, "INVALID_FIELD", "no input 'tokens'"),
    ],
)
def test_bad_input_is_refused_before_a_job_is_queued(bench, change, kind, reason, text):
    with pytest.raises(kind, match=text) as caught:
        bench.client.perturb(bench.model, train=bench.train, test=bench.test, **change)
    assert caught.value.reason == reason


@pytest.fixture(scope="module")
def others(bench):
    """Models that cannot be attacked: a network without a recipe, and one that looks up tokens."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(30, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    ask = {"objective": undue.Objective("cross_entropy", l2=L2)}
    with pytest.warns(undue.ModelWarning):
        bare = bench.client.models.register("cancer-bare", network, example_inputs=torch.zeros(2, 30), **ask)
    tokens = np.random.default_rng(0).integers(0, 9, (40, 5))
    words = bench.client.datasets.register("words", undue.Arrays(inputs=tokens, targets=np.arange(40) % 2))
    lookup = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.Flatten(), torch.nn.Linear(15, 2))
    with pytest.warns(undue.ModelWarning):
        looked_up = bench.client.models.register(
            "lookup", lookup, example_inputs=torch.as_tensor(tokens[:2]), sample=words, parameters=["2.*"], **ask
        )
    return SimpleNamespace(bare=bare, lookup=looked_up, words=words)


def test_a_model_that_cannot_be_attacked_is_refused_with_what_to_do(bench, others):
    with pytest.raises(undue.FailedPrecondition, match="training=") as caught:
        bench.client.perturb(others.bare, train=bench.train, test=bench.test, rows=[0])
    assert caught.value.reason == "RECIPE_MISSING"
    with pytest.raises(undue.InvalidArgument, match="perturb embeddings instead") as caught:
        bench.client.perturb(others.lookup, train=others.words, test=others.words, rows=[0])
    assert caught.value.reason == "INPUT_NOT_DIFFERENTIABLE"


def test_a_network_is_trained_again_by_its_recipe(bench):
    torch.manual_seed(0)
    X, y = torch.as_tensor(bench.X[:100]), torch.as_tensor(bench.y[:100])
    net = torch.nn.Sequential(torch.nn.Linear(30, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()
    train = bench.client.datasets.register("cancer-few", undue.Arrays(inputs=bench.X[:100], targets=bench.y[:100]))
    model = bench.client.models.register(
        "cancer-network",
        net,
        objective=undue.Objective("cross_entropy", l2=1e-3),
        sample=train,
        example_inputs=X[:2],
        training=undue.Training("sgd", lr=0.5, epochs=3),
    )
    ask = {"train": train, "test": bench.test, "rows": bench.near[:2], "damping": 0.1}
    result = bench.client.perturb(model, **ask, **{**BALL, "iterations": 2}).result(timeout=120)
    assert len(result) == 2
    assert {target.confirmed for one in result for target in one.targets} == {None}
    assert "recipe" in result.diagnostics.recipe
    estimate = bench.client.estimate(model, **ask, **BALL)
    assert (estimate.rows, estimate.seconds > 0) == (102, True)
