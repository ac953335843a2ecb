"""The SDK against the real service: runner, engine, database and all."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import undue

N, D, L2 = 40, 3, 0.05


@pytest.fixture(scope="module")
def client() -> Iterator[undue.Client]:
    with undue.Client.local() as connected:
        yield connected


def regression(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(N, D))
    return inputs, inputs @ [[1.0], [-2.0], [0.5]] + rng.normal(size=(N, 1))


def ridge(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The minimiser of (1/N) Σ ½(x̃θ − y)² + L2/2 ‖θ‖² over the rows that are given; N stays, as removal has it."""
    x = np.c_[inputs, np.ones(len(inputs))]
    return np.linalg.solve(x.T @ x / N + L2 * np.eye(D + 1), x.T @ targets / N)


def linear(theta: np.ndarray) -> nn.Module:
    module = nn.Linear(D, 1, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(theta[:D].T))
        module.bias.copy_(torch.from_numpy(theta[D]))
    return module


@pytest.fixture(scope="module")
def registered(client) -> tuple[undue.Model, undue.Dataset]:
    inputs, targets = regression()
    train = client.datasets.register("ridge", undue.Arrays(inputs, targets=targets, ids=[f"row-{i}" for i in range(N)]))
    objective = undue.Objective("squared_error", l2=L2)
    module = linear(ridge(inputs, targets))
    model = client.models.register("ridge", module, objective=objective, sample=train, example_inputs=inputs[:1])
    return model, train


def test_registration_reports_what_was_found(registered) -> None:
    model, train = registered
    assert (model.state, model.format, model.version) == ("READY", "pt2", 1)
    assert model.report.linear_head
    assert model.report.dtype == "float64"
    assert model.report.stationarity.gradient_norm < 1e-10
    assert model.report.warnings == ()
    assert {each.name: each.shape for each in model.report.parameters} == {"weight": (1, D), "bias": (1,)}
    assert (len(train), train.report.has_ids, train.report.target.dtype) == (N, True, "float64")


def test_a_support_vector_machine_goes_through(client) -> None:
    """The temperature arrives, is given back, and decides the scores; every solver is reached by its name."""
    inputs, _ = regression()
    labels = (inputs[:, 0] > 0).astype(np.int64)
    train = client.datasets.register("svm-train", undue.Arrays(inputs, targets=labels))
    scores = {}
    for temperature in (0.1, 1.0):
        objective = undue.Objective("smooth_hinge", l2=L2, temperature=temperature)
        module = linear(np.r_[np.eye(D)[0], 0.0][:, None])
        model = client.models.register("svm", module, objective=objective, sample=train, example_inputs=inputs[:1])
        assert client.models.get(model.name).objective == objective
        settings = {"train": train, "test": train, "rows": [0, 5], "top_k": None}
        for method in ("exact", "lissa", "arnoldi"):
            asked = settings | ({"leverage_correction": False} if method == "exact" else {"seed": 1})
            result = client.influence(model, method=method, **asked).result(timeout=120)
            scores[temperature, method] = result.scores
        for method in ("lissa", "arnoldi"):
            difference = abs(scores[temperature, method] - scores[temperature, "exact"]).max()
            assert difference < 0.02 * abs(scores[temperature, "exact"]).max()
    assert abs(scores[0.1, "exact"] - scores[1.0, "exact"]).max() > 0.01 * abs(scores[1.0, "exact"]).max()


def test_scores_are_what_retraining_without_the_row_shows(client, registered) -> None:
    """For a squared error the leverage-corrected removal is exact: score(i, t) = ∇ℓ_t · (θ without i − θ)."""
    model, train = registered
    inputs, targets = regression()
    theta = ridge(inputs, targets)
    tests = [7, 3]
    result = client.influence(model, train=train, test=train, rows=tests, top_k=None).result(timeout=120)
    x = np.c_[inputs, np.ones(N)]
    expected = np.empty((len(tests), N))
    for i in range(N):
        moved = ridge(np.delete(inputs, i, 0), np.delete(targets, i, 0)) - theta
        expected[:, i] = [(x[t] @ theta - targets[t]).item() * (x[t] @ moved).item() for t in tests]
    assert result.scores.shape == expected.shape
    assert np.abs(result.scores - expected).max() / np.abs(expected).max() < 1e-5
    assert [each.row for each in result.explanations] == tests
    assert result.diagnostics.scale == "removal"
    assert result.diagnostics.damping == 0.0
    assert result.diagnostics.leverage_correction


def test_the_ranking_is_that_of_the_scores(client, registered) -> None:
    model, train = registered
    whole = client.influence(model, train=train, test=train, rows=[7], top_k=None).result(timeout=120)
    [explained] = client.influence(model, train=train, test=train, rows=[7], top_k=4).result(timeout=120)
    order = np.argsort(-whole.scores[0], kind="stable")
    assert [each.row for each in explained.helpful] == order[:4].tolist()
    assert [each.row for each in explained.harmful] == order[::-1][:4].tolist()
    assert explained.helpful[0].id == f"row-{explained.helpful[0].row}"
    assert explained.helpful[0].score == pytest.approx(whole.scores[0, order[0]], rel=1e-5)
    itself = client.self_influence(model, train=train).result(timeout=120)
    assert len(itself) == N
    assert [each.score for each in itself] == sorted((each.score for each in itself), reverse=True)
    mine = next(each.score for each in itself if each.row == 7)
    assert mine == pytest.approx(float(whole.scores[0, 7]), rel=1e-5)


def test_the_same_data_is_the_same_in_every_format(client, registered, tmp_path) -> None:
    _, train = registered
    inputs, targets = regression()
    ids = [f"row-{i}" for i in range(N)]
    np.savez(tmp_path / "d.npz", x=inputs, y=targets, k=np.array(ids))
    columns = {f"x{j}": inputs[:, j] for j in range(D)}
    flat = pa.FixedSizeListArray.from_arrays(pa.array(targets.ravel()), 1)
    pq.write_table(pa.table({**columns, "y": flat, "k": ids}), tmp_path / "d.parquet")
    by_npz = client.datasets.register("npz", tmp_path / "d.npz", undue.Schema("x", target="y", id="k"))
    schema = undue.Schema([*columns], target="y", id="k")
    by_parquet = client.datasets.register("parquet", str(tmp_path / "d.parquet"), schema)
    assert (by_npz.format, by_parquet.format) == ("npz", "parquet")
    assert by_npz.report.digest == by_parquet.report.digest == train.report.digest


def test_large_arrays_arrive_in_chunks(client) -> None:
    inputs = np.random.default_rng(1).normal(size=(5000, 60))  # 2.4 MB
    data = client.datasets.register("large", undue.Arrays(inputs, targets=np.zeros(5000, np.int64)))
    assert len(data) == 5000
    again = client.datasets.register("large", undue.Arrays(inputs, targets=np.zeros(5000, np.int64)))
    assert again.version == data.version + 1
    assert again.report.digest == data.report.digest
    assert [each.version for each in client.datasets.list("large")] == [2, 1]
    assert client.datasets.get("large") == again


def test_failures_have_their_reasons(client, registered, tmp_path) -> None:
    model, train = registered
    with pytest.raises(undue.JobFailed) as caught:
        client.datasets.register("holes", undue.Arrays([[1.0], [np.nan]]))
    assert caught.value.reason == "NON_FINITE_DATA"
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(undue.JobFailed) as caught:
        client.models.register("no", tmp_path / "no.onnx", objective=undue.Objective("squared_error"))
    assert caught.value.reason == "MODEL_MALFORMED"
    assert client.models.get("no").failure.reason == "MODEL_MALFORMED"
    with pytest.raises(undue.FailedPrecondition) as refused:
        client.influence("no", train=train, test=train)
    assert refused.value.reason == "RESOURCE_NOT_READY"
    with pytest.raises(undue.NotFound):
        client.influence(model, train="nothing", test=train)
    with pytest.raises(undue.InvalidArgument) as unknown:
        client.influence(model, train=train, test=train, method="magic")
    assert unknown.value.reason == "METHOD_UNKNOWN"
    with pytest.raises(undue.Error) as beyond:
        client.influence(model, train=train, test=train, rows=[N]).result(timeout=120)
    assert beyond.value.reason == "ROW_OUT_OF_RANGE"


def test_jobs_are_watched_and_cancelled(client, registered) -> None:
    model, train = registered
    first = client.influence(model, train=train, test=train)
    second = client.influence(model, train=train, test=train)
    second.cancel()
    assert second.state == "CANCELLED"
    with pytest.raises(undue.Cancelled):
        second.result()
    assert [step.state for step in first.watch()][-1] == "SUCCEEDED"
    assert {job.name for job in client.jobs.list()} >= {first.name, second.name}
    assert len(client.jobs.get(first.name).result()) == N


def test_the_service_says_what_it_can_do(client) -> None:
    info = client.server_info()
    assert {"exact", "grad_dot"} <= {method.name for method in info.methods}
    assert info.devices


def test_a_data_dir_outlives_its_service_and_is_held_by_one(tmp_path: Path) -> None:
    async def first() -> str:
        async with await undue.AsyncClient.local(tmp_path) as client:
            with pytest.raises(undue.FailedPrecondition) as caught:
                await undue.AsyncClient.local(tmp_path)
            assert caught.value.reason == "DATA_DIR_LOCKED"
            data = await client.datasets.register("kept", undue.Arrays([[1.0], [2.0]], targets=[0, 1]))
            return data.report.digest

    digest = asyncio.run(first())
    with undue.Client.local(tmp_path) as client:
        assert client.datasets.get("kept").report.digest == digest
        assert [job.state for job in client.jobs.list()] == ["SUCCEEDED"]
