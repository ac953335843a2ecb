"""From measured records to goals and the page, on hand-made values."""

import numpy as np
import pytest
import torch

from benchmarks import goals, indexes, render, results
from benchmarks.peers import NAMES, contenders
from benchmarks.training import Recipe, losses, train
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.base import HalfSubsets, Workload, half_subsets

MACHINE = {
    "date": "2026-01-02", "processor": "a processor", "cores": 2, "memory_gib": 8.0, "system": "Linux x86_64",
    "python": "3.11.7", "threads": 2, "device": "cpu", "dtype": "of each method", "versions": {"torch": "2.13.0"},
}  # fmt: skip


def workload(subsets: np.ndarray, measured: np.ndarray) -> Workload:
    truth = HalfSubsets(torch.tensor(subsets), torch.tensor(measured))
    return Workload(
        name="mlp", title="A network", architecture=torch.nn.Identity, data=lambda: None, l2=0.1,
        damping={"hessian": 0.2, "gauss_newton": 0.2, "ekfac": 0.0}, models=dict, seeds=2, truth=lambda: truth,
        reference=None, reference_is="", settings="trained", kind="lds",
    )  # fmt: skip


def measured(peer: str, label: str, seconds: tuple[float, float, float]) -> dict:
    return {
        "peer": peer, "label": label, "note": "a note", "is_removal": True, "models": 2, "base_bytes": 100 * 2**20,
        "seconds": {what: [2 * s, s, s] for what, s in zip(("factors", "pairs", "query"), seconds, strict=True)},
        "peak_bytes": 300 * 2**20,
    }  # fmt: skip


@pytest.fixture
def record():
    generator = np.random.default_rng(5)
    scores, subsets = generator.normal(size=(3, 8)), generator.random((10, 8)) < 0.5
    truth = 1 - subsets @ scores.T
    noise = generator.normal(size=(2, 2, 3, 8))
    found = results.merge(
        workload(subsets, truth),
        [
            (measured("ours", "ekfac", (0.1, 0.2, 0.3)), np.stack([scores, scores])),
            (measured("ours", "gauss_newton", (0.1, 0.2, 0.01)), scores + 0.4 * noise[0]),
            ({"peer": "ours", "label": "arnoldi", "note": "", "missing": "not there"}, None),
            (measured("kronfluence", "EK-FAC", (1, 0.9, 3)), scores + noise[1]),
            ({"peer": "captum", "label": "Arnoldi-100", "note": "", "error": "RuntimeError: no"}, None),
        ],
    )
    return found | {"machine": MACHINE, "quick": True}


def test_a_record_says_what_was_measured(record):
    ekfac, newton, missing, kronfluence, failed = record["rows"]
    assert ekfac["seconds"]["factors"] == {"median": 0.1, "min": 0.1, "max": 0.2, "repeats": 3}
    assert ekfac["quality"]["lds"] == {"mean": 1, "low": 1, "high": 1}
    assert newton["quality"]["lds"]["mean"] < 1
    gain = newton["quality"]["lds_averaged"]["mean"] - np.mean(newton["quality"]["lds_models"])
    assert newton["quality"]["averaging_gain"]["mean"] == pytest.approx(gain)
    assert ekfac["quality"]["averaging_gain"]["mean"] == 0
    difference = record["differences"]["ours ekfac"]["kronfluence EK-FAC"]
    assert difference["mean"] == pytest.approx(1 - kronfluence["quality"]["lds"]["mean"])
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert missing["missing"] == "not there"
    assert failed["error"] == "RuntimeError: no"


def test_goals_are_judged_or_said_to_be_unmeasured(record):
    judged = {one.goal.text: one for one in goals.judge({"mlp": record})}
    factors = judged["ekfac factors: kronfluence's time over ours"]
    assert (factors.value, factors.verdict) == (pytest.approx(10), "pass")
    pairs = judged["ekfac pairs: kronfluence's time over ours"]
    assert (pairs.value, pairs.verdict) == (pytest.approx(4.5), "falls short")
    assert judged["gauss_newton: factors and 100 queries"].value == pytest.approx(0.3)
    query = judged["one query alone: pytorch-influence-functions (recorded) over gauss_newton"]
    assert (query.value, query.verdict) == (None, "not measured")
    recorded = {"pytorch-influence-functions": {"query_seconds": 8.9}}
    again = {one.goal.text: one for one in goals.judge({"mlp": record, "recorded": recorded})}[query.goal.text]
    assert (again.value, again.verdict) == (pytest.approx(890), "falls short")
    assert judged["exact, factor + pairs: fastest peer's time over ours"].why == "convex was not run" or (
        "convex was not run" in judged["exact, factor + pairs: fastest peer's time over ours"].why
    )


def test_the_page_shows_good_bad_and_missing(record):
    page = render.page({"mlp": record, "recorded": {"bergson": {
        "version": "1.0", "date": "2026-01-01", "machine": "one", "said": "needs CUDA"}}})  # fmt: skip
    lines = page.splitlines()
    assert any(
        line.startswith("| ours ekfac | 0.1 (0.1–0.2) | 0.2 (0.2–0.4) | 0.3 (0.3–0.6) | 300 | 100 | 2 |")
        for line in lines
    )
    assert any("ours arnoldi: missing, not there" in line for line in lines)
    assert any("captum Arnoldi-100: failed, RuntimeError: no" in line for line in lines)
    assert any("4.50 ×" in line and "**falls short**" in line for line in lines)
    assert any("10.00 ×" in line and "| pass |" in line for line in lines)
    assert "- **bergson** 1.0, 2026-01-01, one: needs CUDA" in lines
    assert "`--quick`" in page
    tables = [line.count("|") for line in lines if line.startswith("| ours")]
    assert len(set(tables)) == 1
    shown = render.screen(record)
    assert shown[0].split()[0] == "contender"
    assert shown[3] == "ours arnoldi: missing, not there"


def test_every_contender_has_a_note_and_a_goal_names_no_stranger():
    known = {
        (workload, f"{peer} {label}"): entry
        for workload in WORKLOADS for peer in NAMES for label, entry in contenders(peer, workload).items()
    }  # fmt: skip
    assert all(entry.note for entry in known.values())
    records = {
        name: {
            "rows": [
                {"peer": peer, "label": label, "seconds": {s: {"median": 1.0} for s in ("factors", "pairs", "query")},
                 "peak_bytes": 2**30, "quality": {
                     "lds": {"mean": 0.5}, "lds_averaged": {"mean": 0.5}, "pearson_loo": {"mean": 0.5},
                     "pearson_dense": 1.0}}
                for peer in NAMES for label in contenders(peer, name)
            ],
            "differences": {"ours ekfac": {"kronfluence EK-FAC": {"low": 0.0}}},
        }
        for name in WORKLOADS
    }  # fmt: skip
    records["recorded"] = {"pytorch-influence-functions": {"query_seconds": 1.0}}
    records["indexes"] = INDEXES
    assert [judged.why for judged in goals.judge(records) if judged.value is None] == []


SPREAD = {"p50": 0.01, "p99": 0.02}
ENGINE = {
    "rows": 10_000, "fit_seconds": 1.0, "rows_seconds": 2.0, "bytes_per_row": 900.0, "scanned": 5000.0, "recall": 1.0,
    "exact_seconds": SPREAD, **SPREAD,
}  # fmt: skip
SERVICE = {
    "rows": 10_000, "build_seconds": 3.0, "first_call_seconds": 1.0, "extend_seconds": 1.0, "staleness": 0.01,
    "erase_seconds": 0.01, "erased_listed": 0, "appended_listed": 5, "compact_seconds": 1.0, "exact": SPREAD,
    "callers": {str(count): {"calls_per_second": 50.0, **SPREAD} for count in (1, 8, 64)},
    "beside_batch": {"calls_per_second": 30.0, "p50": 0.02, "p99": 0.05},
}  # fmt: skip
INDEXES = {"engine": [ENGINE, ENGINE | {"rows": 60_000}], "service": [SERVICE, SERVICE | {"rows": 60_000}]}


def test_the_part_of_the_index_has_a_line_for_all_that_was_measured():
    page = indexes.section(INDEXES)
    lines = [line for line in page.splitlines() if line.startswith(("| 10,000", "| 60,000"))]
    assert len(lines) == 2 + 2 * (3 + 2)
    assert len({line.count("|") for line in lines[:2]}) == len({line.count("|") for line in lines[2:]}) == 1
    assert "| 10,000 | 1, beside a batch job | 20.0 | 50.0 | 30 |" in lines
    [judged] = [one for one in goals.judge({"indexes": INDEXES}) if "beside a batch job" in one.goal.text]
    assert judged.value == 2.5


def test_models_trained_in_lock_step_are_those_trained_alone():
    generator = torch.Generator().manual_seed(6)
    x, y = torch.randn(40, 3, generator=generator), torch.randint(2, (40,), generator=generator)
    recipe = Recipe(epochs=3, batch_size=8, lr=1e-2, l2=1e-2)

    def architecture() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

    rows = [subset.nonzero()[:, 0] for subset in half_subsets(40, 2, seed=7)]
    together = train(architecture, x, y, recipe, [11, 12], rows)
    for at, seed in enumerate([11, 12]):
        torch.manual_seed(seed)
        module = architecture()
        optimizer = torch.optim.Adam(module.parameters(), lr=recipe.lr)
        order = torch.Generator().manual_seed(1_000_000 + seed)
        for _ in range(recipe.epochs):
            shuffled = rows[at][torch.randperm(20, generator=order)]
            for batch in shuffled[:16].split(8):
                optimizer.zero_grad()
                squares = sum(parameter.square().sum() for parameter in module.parameters())
                risk = torch.nn.functional.cross_entropy(module(x[batch]), y[batch]) + 0.5 * recipe.l2 * squares
                risk.backward()
                optimizer.step()
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(together[name][at], parameter.detach(), rtol=1e-4, atol=1e-5)
        alone = torch.nn.functional.cross_entropy(module(x), y, reduction="none").detach()
        torch.testing.assert_close(losses(architecture, together, x, y)[at], alone, rtol=1e-4, atol=1e-5)
