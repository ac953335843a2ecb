"""The factored index on models that are no MLP: a sentence encoder with a trained head, and a CNN.

`python -m benchmarks.index_models` measures through the SDK; it takes about twelve minutes of two cores.
"""

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from examples.sources import minilm

from . import machine, results, statistics
from .caching import cached
from .data import Split, fashion
from .index_models_page import section
from .mails import TOKENS, mails
from .resnet import EPOCHS, trained

NAME = "index-models"
MAILS, MAIL_TESTS = 400, 100
FLIP_MAILS, FLIPPED, FLIP_SEEDS = 5400, 0.1, 5
CHECKED = (0.05, 0.1, 0.2, 0.3)
IMAGES = 500
L2 = 1e-3
CNN_L2 = 1e-4
REMOVED_AT_RANDOM, EXPLAINED, LISTED = 50, 10, 10
QUERIES = 10
PATIENCE = 600.0
"""Seconds that a call may take."""


def measure(threads: int = 2) -> dict[str, Any]:
    """Measure everything and write it down."""
    torch.set_num_threads(threads)
    record: dict[str, Any] = {"machine": machine.describe(threads, "cpu", "")}
    for name, part in (("mail", mail), ("flips", flips), ("cnn", cnn)):
        started = time.perf_counter()
        record[name] = part()
        record[name]["seconds"] = time.perf_counter() - started
        for what, value in record[name].items():
            print(f"  {name} {what}: {value}", flush=True)
    results.write(NAME, record)
    return record


def mail(rows: int = MAILS) -> dict[str, Any]:
    """Index MiniLM's head, hold it against leave-one-out, and index head and last block."""
    data = mails(rows, MAIL_TESTS)
    weight, bias = fitted_head(minilm.features(data.x), data.y)
    module = minilm.Classifier(minilm.encoder(), weight, bias).eval()
    with torch.no_grad():
        right = (module(data.test_x).argmax(dim=1) == data.test_y).double().mean()
    record: dict[str, Any] = {
        "rows": rows,
        "test_rows": MAIL_TESTS,
        "tokens": TOKENS,
        "l2": L2,
        "accuracy": float(right),
    }
    with service() as client:
        train, test, record["register_seconds"], model = _registered(client, data, module, L2, parameters=["head.*"])
        head, record["head"] = _built(client, model, train, data)
        record["loo"] = _leave_one_out(client, model, train, test, head, data)
        both = ["head.*", "encoder.blocks.5.*"]
        _, record["block"] = _built(client, model, train, data, method="ekfac", parameters=both)
        record["head"]["parameters"] = _numel(module.head)
        record["block"]["parameters"] = _numel(module.head) + _numel(module.encoder.blocks[-1])
    return record


def flips(rows: int = FLIP_MAILS) -> dict[str, Any]:
    """Flip labels, fit the head to them, and look for them by self-influence and by training loss."""
    data = mails(rows, 0)
    found: dict[str, list[list[float]]] = {"self_influence": [], "loss": []}
    x = cached("mail-features", {"rows": rows, "words": minilm.PACKAGE.sha256}, lambda: {"x": minilm.features(data.x)})
    with service() as client:
        for seed in range(FLIP_SEEDS):
            flipped = np.random.default_rng(seed).choice(rows, round(FLIPPED * rows), replace=False)
            y = data.y.clone()
            y[flipped] = 1 - y[flipped]
            head = nn.Linear(minilm.WIDTH, 2)
            weight, bias = fitted_head(x["x"], y)
            head.load_state_dict({"weight": weight, "bias": bias})
            train, _, _, model = _registered(client, Split(x["x"], y, x["x"][:1], y[:1]), head, L2)
            examples = client.self_influence(model, train=train).result().examples
            ranked = {
                "self_influence": [one.row for one in examples],
                "loss": [one.row for one in sorted(examples, key=lambda one: -one.loss)],
            }
            for name, order in ranked.items():
                shares = [np.isin(order[: round(share * rows)], flipped).sum() / len(flipped) for share in CHECKED]
                found[name].append([float(share) for share in shares])
    return {"rows": rows, "flipped": FLIPPED, "seeds": FLIP_SEEDS, "checked": CHECKED, "found": found}


def cnn(rows: int = IMAGES) -> dict[str, Any]:
    """Index all parameters of a CNN and hold its answers against those of the offline method."""
    import undue

    flat = fashion(rows, 1000)
    data = Split(flat.x.reshape(-1, 1, 28, 28), flat.y, flat.test_x.reshape(-1, 1, 28, 28), flat.test_y)
    module = trained(data.x, data.y)
    with torch.no_grad():
        right = (module(data.test_x).argmax(dim=1) == data.test_y).double().mean()
    record: dict[str, Any] = {"rows": rows, "epochs": EPOCHS, "explained": EXPLAINED, "accuracy": float(right)}
    with service() as client:
        train, test, record["register_seconds"], model = _registered(client, data, module, CNN_L2)
        index, record["index"] = _built(client, model, train, data, method="ekfac")
        record["index"]["parameters"] = _numel(module)
        asked = {"inputs": data.test_x[:EXPLAINED].numpy(), "targets": data.test_y[:EXPLAINED].numpy()}
        answers = client.explain(index, **asked, top_k=LISTED, timeout=PATIENCE)
        started = time.perf_counter()
        offline: undue.InfluenceResult = client.influence(
            model,
            train=train,
            test=test,
            rows=range(EXPLAINED),
            method="ekfac",
            top_k=LISTED,
            damping=index.report.diagnostics.damping,
        ).result()
        record["offline_seconds"] = time.perf_counter() - started
    record["agreement"] = _agreement(answers, offline.explanations)
    return record


@contextlib.contextmanager
def service() -> Iterator[Any]:
    """Start a service of one's own."""
    import undue

    with warnings.catch_warnings(), undue.Client.local() as client:
        warnings.simplefilter("ignore", undue.ModelWarning)
        yield client


def fitted_head(x: Tensor, y: Tensor, l2: float = L2) -> tuple[Tensor, Tensor]:
    """Minimise mean cross-entropy + l2/2 · ‖θ‖² over a softmax head of two classes, by L-BFGS in float64.

    Args:
        x: (n, d) features.
        y: (n,) classes.
        l2: on weight and bias.

    Returns:
        Weight (2, d) and bias (2,), float32.

    Raises:
        RuntimeError: it did not come near the minimum.
    """
    z = nn.functional.pad(x.double(), (0, 1), value=1.0)
    theta = torch.zeros(2, z.shape[1], dtype=torch.float64, requires_grad=True)
    settings = {"max_iter": 5000, "max_eval": 10_000, "tolerance_grad": 1e-9, "tolerance_change": 0, "history_size": 50}
    optimizer = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe", **settings)

    def risk() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(z @ theta.T, y) + l2 / 2 * theta.square().sum()
        value.backward()
        return value

    optimizer.step(risk)
    risk()
    if float(theta.grad.abs().max()) > 1e-7:
        raise RuntimeError(f"the head's gradient is still {float(theta.grad.abs().max()):.1e}")
    found = theta.detach().float()
    return found[:, :-1], found[:, -1]


def _registered(client: Any, data: Split, module: nn.Module, l2: float, **more: Any) -> tuple[Any, Any, float, Any]:
    """Register training and test rows and a model of them; return them with the seconds that the model took."""
    import undue

    train = client.datasets.register("train", undue.Arrays(inputs=data.x.numpy(), targets=data.y.numpy()))
    test = client.datasets.register("test", undue.Arrays(inputs=data.test_x.numpy(), targets=data.test_y.numpy()))
    objective = undue.Objective("cross_entropy", l2=l2)
    started = time.perf_counter()
    model = client.models.register(
        "model", module, objective=objective, example_inputs=data.x[:2], sample=train, **more
    )
    return train, test, time.perf_counter() - started, model


def _built(client: Any, model: Any, train: Any, data: Split, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """Build an index and ask it about a few rows, one after the other."""
    started = time.perf_counter()
    index = client.indexes.build(model, train=train, **settings).result()
    record: dict[str, Any] = {"build_seconds": time.perf_counter() - started, "method": index.method}
    record["build_peak_bytes"] = _peak_bytes()
    report = index.report
    names = ("bytes_per_row", "bytes", "resident_bytes", "recall", "recall_queries")
    record |= {name: getattr(report, name) for name in names}
    record |= {"damping": report.diagnostics.damping, "dtype": report.diagnostics.dtype}
    seconds = []
    for at in range(QUERIES + 1):
        before = time.perf_counter()
        client.explain(index, inputs=data.test_x[at : at + 1].numpy(), top_k=LISTED, timeout=PATIENCE)
        seconds.append(time.perf_counter() - before)
    record |= {"first_seconds": seconds[0], "p50": float(np.median(seconds[1:])), "slowest": max(seconds[1:])}
    return index, record | {"peak_bytes": _peak_bytes()}


def _leave_one_out(client: Any, model: Any, train: Any, test: Any, index: Any, data: Split) -> dict[str, float]:
    """Remove rows, fit the head anew without each, and compare the changes of test losses with the index's scores."""
    rows = len(data.x)
    asked = {"inputs": data.test_x[:EXPLAINED].numpy(), "targets": data.test_y[:EXPLAINED].numpy()}
    answers = client.explain(index, **asked, top_k=min(rows, 1000), with_instances=False, timeout=PATIENCE)
    scores = np.zeros((EXPLAINED, rows))
    listed: set[int] = set()
    for place, answer in enumerate(answers):
        for one in (*answer.helpful, *answer.harmful):
            scores[place, one.row] = one.score
        listed |= {one.row for side in (answer.helpful, answer.harmful) for one in side[:LISTED]}
    drawn = np.random.default_rng(0).choice(rows, REMOVED_AT_RANDOM, replace=False).tolist()
    removed = sorted({*drawn, *listed})
    job = client.retrain(model, train=train, test=test, rows=range(EXPLAINED), without=[[row] for row in removed])
    changes = job.result().changes.T
    found = {"explained": EXPLAINED, "random": len(drawn), "listed": len(listed), "removed": len(removed)}
    for name, some in (("random", sorted(drawn)), ("listed", sorted(listed)), ("all", removed)):
        at = np.searchsorted(removed, some)
        pearson = statistics.pearson(scores[:, some], changes[:, at])
        found[f"pearson_{name}"] = float(np.mean(pearson))
        found[f"least_{name}"] = float(np.min(pearson))
    return found


def _agreement(answers: Sequence[Any], offline: Sequence[Any]) -> dict[str, float]:
    """Return the largest difference of scores that both list, as max|a − b| / max|b|, and how many rows both list."""
    largest = shared = places = 0.0
    for one, other in zip(answers, offline, strict=True):
        a, b = ({each.row: each.score for each in (*side.helpful, *side.harmful)} for side in (one, other))
        both = a.keys() & b.keys()
        shared, places = shared + len(both), places + len(b)
        if both:
            top = max(abs(score) for score in b.values())
            largest = max(largest, max(abs(a[row] - b[row]) for row in both) / top)
    return {"largest_difference": largest, "listed_by_both": shared / places}


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _peak_bytes() -> int:
    """Return the most memory that a runner of this process's service has held."""
    peaks = [0]
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            if "undue_service.runner.main" in child.cmdline():
                status = Path(f"/proc/{child.pid}/status").read_text()
                peaks.append(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))
    return 1024 * max(peaks)


if __name__ == "__main__":
    print(section(measure()))
