"""What an estimate says a job takes, and what it takes.

On an idle machine both agree within a factor of two; the bounds here leave room for one that is busy. `-rP` prints all.
"""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

import undue
from conftest import L2, fit_softmax

SECONDS, BYTES = 10, 2


@pytest.fixture(scope="module")
def bench(tmp_path_factory, digits):
    """A service of its own, whose only runner does nothing else."""
    torch.manual_seed(0)
    X, y = digits.X_train.astype(np.float32), digits.y_train
    net = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.as_tensor(X)), torch.as_tensor(y)).backward()
        optimizer.step()
    with undue.Client.local() as client:
        data = client.datasets.register("digits", undue.Arrays(inputs=X, targets=y, groups={"odd": y % 2}))
        models = {}
        for name, module in (("softmax", fit_softmax(X, y, L2, 10)), ("mlp", net)):
            example = torch.as_tensor(X[:2]).to(next(module.parameters()).dtype)
            objective = undue.Objective("cross_entropy", l2=L2 if name == "softmax" else 1e-3)
            recipe = undue.Training("adam", 1e-2, epochs=10, batch_size=128) if name == "mlp" else None
            models[name] = client.models.register(
                name, module, objective=objective, sample=data, example_inputs=example, training=recipe
            )
        yield client, data, models


@pytest.mark.parametrize(
    ("model", "ask", "settings"),
    [
        ("softmax", "influence", {"method": "exact", "rows": range(100)}),
        ("softmax", "influence", {"method": "cg", "rows": range(100)}),
        ("softmax", "influence", {"method": "lissa", "rows": range(100)}),
        ("softmax", "influence", {"method": "arnoldi", "rows": range(100)}),
        ("softmax", "influence", {"method": "grad_dot", "top_k": None}),
        ("softmax", "self_influence", {"method": "exact"}),
        ("softmax", "retrain", {"rows": range(20), "without": [[row] for row in range(300)]}),
        ("mlp", "influence", {"method": "exact", "rows": range(20), "damping": 1.0}),
        ("mlp", "influence", {"method": "cg", "rows": range(20), "damping": 0.3}),
        ("mlp", "influence", {"method": "grad_dot", "rows": range(100)}),
        ("softmax", "fidelity", {"kind": "loo", "method": "exact", "rows": range(20)}),
        ("softmax", "leverage", {"dfbeta": True}),
        ("mlp", "retrain", {"rows": range(20), "without": [[row] for row in range(30)]}),
        ("mlp", "fidelity", {"kind": "lds", "method": "grad_dot", "rows": range(100), "samples": 40, "seeds": 2}),
        ("mlp", "influence", {"method": "ekfac", "rows": range(100)}),
        ("softmax", "group_influence", {"rows": range(20), "by": "odd"}),
        ("mlp", "group_influence", {"rows": range(20), "by": "odd", "reweight": {"1": 0}}),
        ("softmax", "compare", {"rows": range(20), "other": None}),
    ],
)
def test_an_estimate_is_near_what_a_job_takes(bench, model, ask, settings):
    client, data, models = bench
    arguments = {"train": data, **settings} | ({} if ask in ("self_influence", "leverage") else {"test": data})
    estimate = client.estimate(models[model], **arguments)
    peak = _peak_of(client)
    started = time.perf_counter()
    result = getattr(client, ask)(models[model], **arguments).result(timeout=120)
    waited = time.perf_counter() - started
    held = peak()
    retrained = result.diagnostics.fidelity.seconds if result.diagnostics.fidelity else 0.0
    seconds = result.diagnostics.seconds + retrained
    print(
        f"{model} {ask} {settings.get('method', '')}: {estimate.seconds:.3f} s estimated, {seconds:.3f} s measured "
        f"({estimate.seconds / seconds:.2f}), {waited:.2f} s waited; {estimate.peak_bytes >> 20} MiB estimated, "
        f"{held >> 20} MiB measured ({estimate.peak_bytes / held:.2f})"
    )
    assert seconds < SECONDS * estimate.seconds + 1.0  # a second of a busy machine is no fault of a job of milliseconds
    assert estimate.seconds < SECONDS * seconds + 0.1
    assert 1 / BYTES < estimate.peak_bytes / held < BYTES


@pytest.mark.parametrize(
    ("model", "method"), [("softmax", "exact"), ("mlp", "gauss_newton"), ("mlp", "ekfac"), ("softmax", "ekfac")]
)
def test_an_estimate_is_near_what_building_an_index_takes(bench, model, method):
    client, data, models = bench
    estimate = client.indexes.estimate(models[model], train=data, method=method)
    assert estimate.rows == len(data)
    peak = _peak_of(client)
    started = time.perf_counter()
    client.indexes.build(models[model], train=data, method=method).result(timeout=120)
    seconds, held = time.perf_counter() - started, peak()
    print(
        f"{model} index {method}: {estimate.seconds:.3f} s estimated, {seconds:.3f} s waited; "
        f"{estimate.peak_bytes >> 20} MiB estimated, {held >> 20} MiB measured ({estimate.peak_bytes / held:.2f})"
    )
    assert seconds < SECONDS * estimate.seconds + 1.0
    assert estimate.seconds < SECONDS * seconds + 0.1
    assert 1 / BYTES < estimate.peak_bytes / held < BYTES


def _peak_of(client):
    """Return a function that says how much memory the batch runner has held at most since this was called."""
    [runner] = [one.pid for one in client.server_info().runners if one.lane == "batch"]
    Path(f"/proc/{runner}/clear_refs").write_text("5")  # the most memory held is counted anew

    def peak():
        [line] = [line for line in Path(f"/proc/{runner}/status").read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    return peak
