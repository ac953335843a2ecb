"""Indexes and live explanations, through the SDK and the command line to a real service."""

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import undue
from conftest import fit_softmax

ROWS = [3, 40, 111, 200]


def scores_of(listed):
    return np.array([one.score for one in listed])


def rows_of(explanation):
    return [one.row for one in (*explanation.helpful, *explanation.harmful)]


def same(live, offline, matrix, rtol):
    """Hold an explanation against a job's: each score is that of its row, and no list is worse."""
    assert live.prediction == offline.prediction
    assert live.target == offline.target
    assert live.loss == pytest.approx(offline.loss, rel=1e-4, abs=1e-6)
    largest = np.abs(matrix).max()
    for mine, theirs in ((live.helpful, offline.helpful), (live.harmful, offline.harmful)):
        np.testing.assert_allclose(scores_of(mine), matrix[[one.row for one in mine]], rtol=0, atol=rtol * largest)
        np.testing.assert_allclose(scores_of(mine), scores_of(theirs), rtol=0, atol=rtol * largest)


@pytest.fixture(scope="module")
def softmax(client, registered):
    """An index of a linear head."""
    index = client.indexes.build(registered.model, train=registered.train).result()
    client.indexes.set_alias("softmax-live", index)
    return index


@pytest.fixture(scope="module")
def network(client, digits):
    """A small network on half of the digits, and an index of it."""
    half = len(digits.X_train) // 2
    X, y = digits.X_train.astype(np.float32), digits.y_train
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.as_tensor(X[:half])), torch.as_tensor(y[:half])).backward()
        optimizer.step()
    train = client.datasets.register("digits-half", undue.Arrays(inputs=X[:half], targets=y[:half]))
    model = client.models.register(
        "digits-net",
        net,
        objective=undue.Objective("cross_entropy", l2=1e-3),
        sample=train,
        example_inputs=torch.as_tensor(X[:2]),
    )
    return SimpleNamespace(model=model, train=train, half=half, X=X, y=y, X_test=digits.X_test.astype(np.float32))


@pytest.fixture(scope="module")
def ekfac(client, network):
    return client.indexes.build(network.model, train=network.train, method="ekfac").result()


def test_an_index_says_what_it_is(client, registered, softmax):
    assert (softmax.state, softmax.method) == ("READY", "exact")
    assert (softmax.model, softmax.train) == (registered.model.name, registered.train.name)
    assert softmax.datasets == (registered.train.name,)
    report = softmax.report
    assert (report.rows, softmax.erased_rows, report.staleness) == (len(registered.train), 0, 0.0)
    assert 0 < report.bytes_per_row * report.rows <= report.bytes
    assert report.resident_bytes > 0
    assert 0.9 < report.recall <= 1
    assert 0 < report.recall_queries <= len(registered.train)
    assert (report.diagnostics.method, report.diagnostics.scale) == ("exact", "removal")
    assert report.diagnostics.leverage_correction
    assert set(report.diagnostics.digests) >= {"model", "train", "code"}
    assert client.indexes.get("softmax-live") == client.indexes.get(softmax.name)
    assert softmax.name in [index.name for index in client.indexes.list()]
    assert client.jobs.get(softmax.job).result().name == softmax.name


@pytest.mark.parametrize("measurement", ["loss", "margin"])
def test_a_live_prediction_of_a_linear_head_has_the_scores_of_the_job(client, digits, registered, softmax, measurement):
    asked = {"train": registered.train, "test": registered.test, "rows": ROWS, "measurement": measurement}
    offline = client.influence(registered.model, **asked, method="exact").result()
    matrix = client.influence(registered.model, **asked, method="exact", top_k=None).result().scores
    live = client.explain(
        softmax, inputs=digits.X_test[ROWS], targets=digits.y_test[ROWS], measurement=measurement, exact=True
    )
    assert (live.index, live.method, live.recall) == (softmax.name, "exact", 1.0)
    assert live.damping == offline.diagnostics.damping
    for one, other, scores in zip(live, offline, matrix, strict=True):
        same(one, other, scores, 1e-5)
        assert rows_of(one) == rows_of(other)


def test_without_targets_the_prediction_is_explained(client, digits, registered, softmax):
    wrong = int(np.flatnonzero([np.argmax(one) for one in logits(digits)] != digits.y_test)[0])
    x = digits.X_test[[wrong]]
    [predicted] = client.explain("softmax-live", inputs=x)
    [told] = client.explain("softmax-live", inputs=x, targets=digits.y_test[[wrong]])
    assert predicted.target == predicted.prediction == told.prediction
    assert told.target == digits.y_test[wrong] != predicted.target
    assert told.loss > predicted.loss
    [again] = client.explain("softmax-live", inputs=x, targets=[predicted.prediction])
    assert rows_of(again) == rows_of(predicted)


def logits(digits):
    return digits.model(torch.as_tensor(digits.X_test)).detach().numpy()


def test_the_instances_are_the_rows_themselves(client, digits, registered, softmax):
    X = digits.X_test[ROWS]
    here = client.explain(softmax, inputs=X, top_k=3)
    read = client.explain(softmax, inputs=X, top_k=3, with_instances=False)
    for one, other in zip(here, read, strict=True):
        assert rows_of(one) == rows_of(other)
        for mine, theirs in zip((*one.helpful, *one.harmful), (*other.helpful, *other.harmful), strict=True):
            example = mine.example
            np.testing.assert_array_equal(example.input, digits.X_train[mine.row])
            np.testing.assert_array_equal(theirs.example.input, example.input)
            assert (example.row, example.dataset) == (mine.row, registered.train.name)
            assert (example.target, mine.target) == (digits.y_train[mine.row],) * 2
            assert (theirs.example.row, theirs.example.dataset) == (example.row, example.dataset)
        np.testing.assert_array_equal(one.example.input, X[one.row])


def test_a_network_has_the_scores_of_the_job(client, network, ekfac, registered):
    test = client.datasets.register("digits-test-32", undue.Arrays(inputs=network.X_test))
    asked = {"train": network.train, "test": test, "rows": ROWS, "method": "ekfac", "rank": 64}
    offline = client.influence(network.model, **asked).result()
    matrix = client.influence(network.model, **asked, top_k=None).result().scores
    live = client.explain(ekfac, inputs=network.X_test[ROWS])
    assert live.recall == ekfac.report.recall > 0.95
    assert live.damping == pytest.approx(offline.diagnostics.damping, rel=1e-5)
    exact = client.explain(ekfac, inputs=network.X_test[ROWS], exact=True)
    for one, sure, other, scores in zip(live, exact, offline, matrix, strict=True):
        same(one, other, scores, 1e-3)
        same(sure, other, scores, 1e-3)


def test_many_rows_are_answered_as_each_alone(client, digits, softmax):
    X = np.tile(digits.X_test, (2, 1))[:300]
    together = client.explain(softmax, inputs=X, top_k=2)
    assert [one.row for one in together] == list(range(300))
    for row in (0, 255, 256, 299):
        [alone] = client.explain(softmax, inputs=X[[row]], top_k=2)
        assert rows_of(alone) == rows_of(together[row])
        np.testing.assert_allclose(scores_of(alone.helpful), scores_of(together[row].helpful), rtol=1e-5)


def test_many_callers_at_once_get_their_own_answers(client, digits, softmax):
    X = digits.X_test[:64]
    known = client.explain(softmax, inputs=X, top_k=3)

    async def ask():
        async with undue.AsyncClient(client.address) as connected:

            async def one(row):
                if row % 9 == 5:  # one of many callers is wrong; the others must not notice
                    with pytest.raises(undue.InvalidArgument):
                        await connected.explain("softmax-live", inputs=np.zeros((1, 63)))
                [found] = await connected.explain(
                    "softmax-live", inputs=X[[row]], top_k=3 + row % 2, with_instances=row % 3 == 0
                )
                return found

            return await asyncio.gather(*(one(row) for row in range(64)))

    for row, found in enumerate(asyncio.run(ask())):
        assert found.prediction == known[row].prediction
        assert [one.row for one in found.helpful[:3]] == [one.row for one in known[row].helpful]
        assert len(found.helpful) == 3 + row % 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"inputs": np.zeros((1, 63))}, "INPUT_MISMATCH"),
        ({"inputs": {"z": np.zeros((1, 64)), "y": np.zeros((1, 64))}}, "INPUT_MISMATCH"),
        ({"inputs": np.full((1, 64), np.nan)}, "NON_FINITE_DATA"),
        ({"inputs": np.zeros((1, 64)), "targets": [10]}, "TARGET_MISMATCH"),
        ({"inputs": np.zeros((1, 64)), "top_k": 1001}, None),
        ({"index": "indexes/" + "0" * 32}, "RESOURCE_NOT_FOUND"),
        ({"index": "nobody"}, "RESOURCE_NOT_FOUND"),
    ],
)
def test_what_cannot_be_explained_is_refused(client, digits, softmax, wrong, reason):
    arguments = {"index": "softmax-live", "inputs": digits.X_test[:1]} | wrong
    with pytest.raises((undue.InvalidArgument, undue.NotFound)) as caught:
        client.explain(arguments.pop("index"), **arguments)
    assert reason is None or caught.value.reason == reason
    assert client.explain("softmax-live", inputs=digits.X_test[:1])[0].row == 0


def test_what_no_index_can_be_is_refused(client, registered, network):
    for arguments, kind in (
        ({"method": "trak"}, undue.InvalidArgument),
        ({"method": "magic"}, undue.InvalidArgument),
        ({"train": "nobody"}, undue.NotFound),
        ({"parameters": ["nothing.*"]}, undue.InvalidArgument),
    ):
        for call in (client.indexes.build, client.indexes.estimate):
            with pytest.raises(kind):
                call(registered.model, **({"train": registered.train} | arguments))
    before = [index.name for index in client.indexes.list()]
    estimate = client.indexes.estimate(network.model, train=network.train)
    assert estimate.rows >= network.half
    assert 0 < estimate.seconds < 600
    assert 1 << 20 < estimate.peak_bytes < 1 << 34
    assert [index.name for index in client.indexes.list()] == before


def test_rows_are_appended_without_fitting_anew(client, network, ekfac):
    index = client.indexes.build(network.model, train=network.train, method="ekfac").result()
    half, X, y = network.half, network.X, network.y
    rest = undue.Arrays(inputs=X[half:], targets=y[half:])
    more = client.indexes.extend(index, rows=rest).result()
    assert more.name == index.name
    assert more.datasets == (network.train.name, f"datasets/index-{index.name[8:]}-rows/versions/1")
    assert (more.report.rows, more.report.diagnostics.damping) == (len(X), index.report.diagnostics.damping)
    assert more.report.staleness > 0
    [before] = client.explain(ekfac, inputs=network.X_test[:1], exact=True, top_k=50)
    [after] = client.explain(index, inputs=network.X_test[:1], exact=True, top_k=50)
    old = [one for one in after.helpful if one.row < half]
    assert [one.row for one in old] == [one.row for one in before.helpful[: len(old)]]
    np.testing.assert_allclose(scores_of(old), scores_of(before.helpful[: len(old)]), rtol=1e-3)
    new = [one for one in (*after.helpful, *after.harmful) if one.row >= half]
    assert new
    for one in new:
        np.testing.assert_array_equal(one.example.input, X[one.row])
        assert (one.target, one.example.row, one.example.dataset) == (y[one.row], one.row - half, more.datasets[1])
    [read] = client.explain(index, inputs=network.X_test[:1], exact=True, top_k=50, with_instances=False)
    far = next(one for one in (*read.helpful, *read.harmful) if one.row >= half)
    np.testing.assert_array_equal(far.example.input, X[far.row])
    noise = np.random.default_rng(0).normal(scale=3, size=(2 * half, 64)).astype(np.float32)
    strange = undue.Arrays(inputs=noise, targets=np.arange(2 * half) % 10)
    with pytest.warns(undue.ModelWarning, match="build it anew"):
        stale = client.indexes.extend(index, rows=strange).result()
    assert stale.report.staleness > max(0.1, more.report.staleness)
    assert stale.report.rows == len(X) + 2 * half
    client.indexes.delete(index)


def test_erased_rows_are_gone_from_the_next_answer_on_and_from_the_files_with_a_compaction(client, network):
    index = client.indexes.build(network.model, train=network.train, method="ekfac").result()
    x = network.X_test[:8]
    seen = {row for one in client.explain(index, inputs=x, exact=True) for row in rows_of(one)}
    fewer = client.indexes.erase(index, rows=seen)
    assert (fewer.name, fewer.erased_rows) == (index.name, len(seen))
    assert fewer.etag != index.etag
    first = client.explain(index, inputs=x, exact=True)
    assert not seen & {row for one in first for row in rows_of(one)}
    assert client.indexes.erase(index, rows=[min(seen)]).erased_rows == len(seen)
    smaller = client.indexes.compact(index).result()
    assert smaller.report.rows == index.report.rows - len(seen)
    assert smaller.report.bytes < index.report.bytes
    second = client.explain(index, inputs=x, exact=True)
    for one, other in zip(first, second, strict=True):
        assert rows_of(one) == rows_of(other)
    quick = client.explain(index, inputs=network.X_test)
    assert not seen & {row for one in quick for row in rows_of(one)}
    with pytest.raises(undue.InvalidArgument) as caught:
        client.indexes.erase(index, rows=[network.half])
    assert caught.value.reason == "ROW_OUT_OF_RANGE"
    with pytest.raises(undue.InvalidArgument):
        client.indexes.erase(index, rows=range(network.half))
    more = client.indexes.extend(index, rows=undue.Arrays(network.X[:5], targets=network.y[:5])).result()
    assert more.report.rows == smaller.report.rows + 5
    listed = {row for one in client.explain(index, inputs=network.X[:5], exact=True) for row in rows_of(one)}
    assert not seen & listed
    assert max(listed) >= network.half  # numbers are not given again
    client.indexes.delete(index)
    with pytest.raises(undue.NotFound):
        client.explain(index, inputs=x)


def test_an_alias_moves_between_two_calls(client, digits, registered, softmax):
    other = client.indexes.build(registered.model, train=registered.train, damping=0.5).result()
    X = digits.X_test[:2]
    expected = {
        index.name: [one.score for one in client.explain(index, inputs=X)[0].helpful] for index in (softmax, other)
    }
    client.indexes.set_alias("moving", softmax)
    failures, seen, stop = [], set(), threading.Event()

    def ask():
        with undue.Client(client.address) as connected:
            while not stop.is_set():
                answer = connected.explain("moving", inputs=X)
                seen.add(answer.index)
                scores = [one.score for one in answer[0].helpful]
                if not np.allclose(scores, expected[answer.index], rtol=1e-5):
                    failures.append((answer.index, scores))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for index in itertools.islice(itertools.cycle((other, softmax)), 30):
        alias = client.indexes.set_alias("moving", index)
        assert (alias.name, alias.index) == ("aliases/moving", index.name)
        assert client.explain("moving", inputs=X).index == index.name  # whoever asks after it hears the new one
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert seen == set(expected)
    assert [one.name for one in client.indexes.aliases()] == ["aliases/moving", "aliases/softmax-live"]
    client.indexes.set_alias("moving", other)
    with pytest.raises(undue.FailedPrecondition) as caught:
        client.indexes.delete(other)
    assert caught.value.reason == "RESOURCE_IN_USE"
    with pytest.raises(undue.FailedPrecondition) as caught:
        client.indexes.delete(other, etag="of another time")
    assert caught.value.reason == "ETAG_MISMATCH"
    client.indexes.delete(other, force=True)
    for gone in (lambda: client.indexes.alias("moving"), lambda: client.explain("moving", inputs=X)):
        with pytest.raises(undue.NotFound):
            gone()


def test_what_an_index_needs_is_not_deleted_from_under_it(client):
    rng = np.random.default_rng(1)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 3)) + 2 * y[:, None]
    train = client.datasets.register("needed", undue.Arrays(inputs=X, targets=y))
    net = fit_softmax(X, y, 1e-2, 2)
    objective = undue.Objective("cross_entropy", l2=1e-2)
    model = client.models.register("needed", net, objective=objective, sample=train, example_inputs=X[:2])
    index = client.indexes.build(model, train=train).result()
    assert client.explain(index, inputs=X[:1]).index == index.name
    for delete, name in ((client.datasets.delete, train), (client.models.delete, model)):
        with pytest.raises(undue.FailedPrecondition) as caught:
            delete(name)
        assert caught.value.reason == "RESOURCE_IN_USE"
        assert index.name in str(caught.value)
    with pytest.raises(undue.FailedPrecondition):
        client.jobs.delete(index.job)  # it goes with the index
    client.indexes.delete(index)
    client.models.delete(model)
    client.datasets.delete(train)


def test_one_change_at_a_time(client, network):
    index = client.indexes.build(network.model, train=network.train, method="ekfac").result()
    rows = [client.datasets.register("spare", undue.Arrays(network.X[:400], targets=network.y[:400])) for _ in "ab"]
    jobs, refused = [], 0
    for each in rows:
        try:
            jobs.append(client.indexes.extend(index, rows=each))
        except undue.FailedPrecondition as error:
            assert error.reason == "INDEX_BUSY"
            refused += 1
    assert len(jobs) + refused == 2
    assert client.explain(index, inputs=network.X_test[:1]).index == index.name  # it answers meanwhile
    for job in jobs:
        job.result()
    assert client.indexes.get(index.name).report.rows == network.half + 400 * len(jobs)
    client.indexes.delete(index)


def test_an_index_is_there_after_a_restart(tmp_path, digits):
    X, y = digits.X_train[:300], digits.y_train[:300]
    with undue.Client.local(tmp_path / "data") as client:
        train = client.datasets.register("d", undue.Arrays(inputs=X, targets=y))
        net = fit_softmax(X, y, 1e-2, 10)
        objective = undue.Objective("cross_entropy", l2=1e-2)
        model = client.models.register("m", net, objective=objective, sample=train, example_inputs=X[:2])
        index = client.indexes.build(model, train=train).result()
        client.indexes.set_alias("live", index)
        client.indexes.erase(index, rows=[0, 7])
        [before] = client.explain("live", inputs=digits.X_test[:1])
    with undue.Client.local(tmp_path / "data") as client:
        [after] = client.explain("live", inputs=digits.X_test[:1])
        assert after == before
        assert client.indexes.get("live").erased_rows == 2


def test_a_regression_explains_its_prediction(client):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(80, 4))
    y = X @ rng.normal(size=(4, 1)) + 0.1 * rng.normal(size=(80, 1))
    weight = np.linalg.solve(X.T @ X / 80 + 1e-2 * np.eye(4), X.T @ y / 80)
    net = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    net.weight.data = torch.as_tensor(weight.T)
    train = client.datasets.register("line", undue.Arrays(inputs=X, targets=y))
    objective = undue.Objective("squared_error", l2=1e-2)
    model = client.models.register(
        "line", net, objective=objective, sample=train, example_inputs=torch.as_tensor(X[:2])
    )
    index = client.indexes.build(model, train=train).result()
    x, target = rng.normal(size=(1, 4)), np.array([[2.5]])
    [told] = client.explain(index, inputs=x, targets=target, top_k=80, exact=True)
    assert told.loss == pytest.approx(0.5 * float((x @ weight - target).item() ** 2))
    for one in (*told.helpful, *told.harmful):
        kept = np.arange(80) != one.row
        without = np.linalg.solve(X[kept].T @ X[kept] / 80 + 1e-2 * np.eye(4), X[kept].T @ y[kept] / 80)
        # To first order in the change of the prediction, which the leverage correction makes exact.
        first_order = float(((x @ weight - target) * (x @ (without - weight))).item())
        assert one.score == pytest.approx(first_order, rel=1e-6, abs=1e-12)
    test = client.datasets.register("line-test", undue.Arrays(inputs=x))
    offline = client.influence(model, train=train, test=test, top_k=5).result()
    [predicted] = client.explain(index, inputs=x, top_k=5)
    assert predicted.prediction == pytest.approx(float((x @ weight).item()))
    assert rows_of(predicted) == rows_of(offline.explanations[0])
    np.testing.assert_allclose(scores_of(predicted.helpful), scores_of(offline.explanations[0].helpful), rtol=1e-6)


def run(client, *words):
    command = [sys.executable, "-m", "undue.cli.main", "--server", client.address, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_from_the_command_line(client, digits, registered, tmp_path):
    np.save(tmp_path / "x.npy", digits.X_test[:2])
    np.save(tmp_path / "y.npy", digits.y_test[:2])
    index = run(client, "indexes", "build", registered.model.name, "--train", registered.train.name)
    assert index["state"] == "READY"
    run(client, "indexes", "alias", "set", "shell", index["name"])
    words = ["explain", "shell", "--inputs", str(tmp_path / "x.npy"), "--targets", str(tmp_path / "y.npy")]
    found = run(client, *words, "--top-k", "2", "--exact")
    live = client.explain(index["name"], inputs=digits.X_test[:2], targets=digits.y_test[:2], top_k=2, exact=True)
    assert [one["helpful"][0]["row"] for one in found["explanations"]] == [one.helpful[0].row for one in live]
    top = found["explanations"][0]["helpful"][0]["row"]
    assert run(client, "indexes", "erase", index["name"], str(top))["erased_rows"] == 1
    assert run(client, "indexes", "compact", index["name"])["report"]["rows"] == len(digits.X_train) - 1
    again = run(client, *words, "--top-k", "2")
    assert top not in [one["row"] for one in again["explanations"][0]["helpful"]]
    run(client, "indexes", "delete", index["name"], "--force")
    assert index["name"] not in [one["name"] for one in run(client, "indexes", "list")]
