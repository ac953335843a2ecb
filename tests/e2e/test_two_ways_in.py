"""The same model as ONNX and as nn.Module gives the same scores, whatever the batch size, row order or format."""

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import undue

ROWS = list(range(12))


def scores(client, model, train, test, rows=ROWS, **options):
    return client.influence(model, train=train, test=test, rows=rows, top_k=None, **options).result().scores


def agreement(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.fixture(scope="module")
def reference(client, registered):
    return scores(client, registered.model, registered.train, registered.test)


def export(model, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(2, 64, dtype=next(model.parameters()).dtype)
        if options.get("dynamo"):
            options["dynamic_shapes"] = ({0: torch.export.Dim.DYNAMIC},)
        else:
            options["dynamic_axes"] = {"x": {0: "batch"}}
        torch.onnx.export(model, (example,), path, input_names=["x"], verbose=False, **options)
    return path


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "older"])
def test_onnx_and_module_agree(client, registered, digits, reference, tmp_path, dynamo):
    path = export(digits.model, tmp_path / "m.onnx", dynamo=dynamo)
    objective = undue.Objective("cross_entropy", l2=digits.l2)
    model = client.models.register("digits-onnx", path, objective=objective, sample=registered.train)
    assert model.report.parity.max_abs_difference <= 1e-5
    assert model.report.linear_head
    found = scores(client, model, registered.train, registered.test)
    print(f"agreement {agreement(found, reference):.1e}")
    assert agreement(found, reference) <= 1e-5


def test_the_order_of_training_rows_changes_no_score(client, registered, digits, reference):
    order = np.random.default_rng(1).permutation(len(digits.X_train))
    shuffled = undue.Arrays(inputs=digits.X_train[order], targets=digits.y_train[order])
    train = client.datasets.register("digits-shuffled", shuffled)
    assert agreement(scores(client, registered.model, train, registered.test), reference[:, order]) <= 1e-6


def test_asking_for_rows_one_by_one_changes_no_score(client, registered, reference):
    rows = [7, 0, 7]
    one_by_one = np.concatenate(
        [scores(client, registered.model, registered.train, registered.test, [row]) for row in rows]
    )
    assert agreement(one_by_one, reference[rows]) <= 1e-6


def test_the_format_of_the_data_changes_neither_digest_nor_score(client, registered, digits, reference, tmp_path):
    np.savez(tmp_path / "d.npz", X=digits.X_train, y=digits.y_train)
    table = pa.table({f"p{i}": digits.X_train[:, i] for i in range(64)} | {"y": digits.y_train})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=500)
    npz = client.datasets.register("digits-npz", tmp_path / "d.npz", schema=undue.Schema(inputs=["X"], target="y"))
    pixels = undue.Schema(inputs=[f"p{i}" for i in range(64)], target="y")
    parquet = client.datasets.register("digits-parquet", tmp_path / "d.parquet", schema=pixels)
    assert npz.report.digest == parquet.report.digest == registered.train.report.digest
    for train in (npz, parquet):
        assert agreement(scores(client, registered.model, train, registered.test), reference) <= 1e-6


def test_top_k_is_the_head_and_the_tail_of_the_matrix(client, registered, reference):
    result = client.influence(
        registered.model, train=registered.train, test=registered.test, rows=ROWS, top_k=5
    ).result()
    for explanation, row in zip(result.explanations, reference, strict=True):
        order = np.argsort(-row, kind="stable")
        assert [one.row for one in explanation.helpful] == order[:5].tolist()
        assert [one.row for one in explanation.harmful] == np.argsort(row, kind="stable")[:5].tolist()
        assert np.allclose([one.score for one in explanation.helpful], row[order[:5]], rtol=1e-6)


def test_a_model_whose_softmax_is_inside_has_the_same_scores(client, registered, digits, reference):
    inside = torch.nn.Sequential(digits.model, torch.nn.Softmax(dim=1))
    objective = undue.Objective("cross_entropy", l2=digits.l2)
    model = client.models.register(
        "inside",
        inside,
        objective=objective,
        example_inputs=torch.zeros(2, 64, dtype=torch.float64),
        sample=registered.train,
    )
    assert model.report.output_activation == "softmax"
    assert agreement(scores(client, model, registered.train, registered.test), reference) <= 1e-6


def retrain_without(digits, removed, row):
    """Return the change of the test row's loss, 1/n kept, by Newton from the full solution for each removed row."""
    X = torch.cat([torch.as_tensor(digits.X_train), torch.ones(len(digits.X_train), 1, dtype=torch.float64)], dim=1)
    y, n = torch.as_tensor(digits.y_train), len(digits.X_train)
    x_test = torch.cat([torch.as_tensor(digits.X_test[row]), torch.ones(1, dtype=torch.float64)])
    start = torch.cat([digits.model.weight, digits.model.bias[:, None]], dim=1).detach().flatten()

    def solve(weights):
        theta = start.clone()
        for _ in range(20):
            p = torch.softmax(X @ theta.view(10, 65).T, dim=1)
            residual = (p - torch.nn.functional.one_hot(y, 10)) * weights[:, None]
            gradient = (residual.T @ X / n).flatten() + digits.l2 * theta
            if gradient.norm() < 1e-10:
                return theta
            S = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            H = torch.einsum("ncd,ni,nj->cidj", S * weights[:, None, None], X, X).reshape(650, 650) / n
            theta = theta - torch.linalg.solve(H + digits.l2 * torch.eye(650, dtype=torch.float64), gradient)
        raise AssertionError(f"retraining stopped at a gradient of {gradient.norm():.1e}")

    def loss(theta):
        return torch.nn.functional.cross_entropy(
            (theta.view(10, 65) @ x_test)[None], torch.tensor([int(digits.y_test[row])])
        ).item()

    full = loss(solve(torch.ones(n, dtype=torch.float64)))
    changes = []
    for one in removed:
        weights = torch.ones(n, dtype=torch.float64)
        weights[one] = 0
        changes.append(loss(solve(weights)) - full)
    return np.array(changes)


def test_leave_one_out_through_the_service(client, registered, digits):
    """The shortest chain of the whole: a score through gRPC is what retraining measures."""
    rng = np.random.default_rng(5)
    removed = rng.choice(len(digits.X_train), 60, replace=False)
    row = int(np.argmax(digits.model(torch.as_tensor(digits.X_test)).argmax(1).numpy() != digits.y_test))
    predicted = scores(client, registered.model, registered.train, registered.test, [row])[0][removed]
    measured = retrain_without(digits, removed, row)
    pearson = np.corrcoef(predicted, measured)[0, 1]
    slope = np.polyfit(predicted, measured, 1)[0]
    print(f"digits, l2 1e-2, through the service: Pearson {pearson:.5f}, slope {slope:.4f}")
    assert pearson >= 0.99
    assert 0.9 <= slope <= 1.1
