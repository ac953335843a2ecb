"""docs/benchmarks.md and the tables on the screen, from the JSON of benchmarks/results/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import fidelity_jobs, goals, indexes, perturbation, results, retraining
from .results import table

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
RECORDED = Path(__file__).parent / "recorded.json"
ORDER = ("convex", "mlp", "fashion", "cnn")

INTRODUCTION = """\
# Benchmarks

Rendered by `make bench` from `benchmarks/results/*.json`; do not edit. The same work side by side, each contender in a
process of its own with the same number of threads, on one machine, all rows of a table in one run. Ratios travel to
other machines, seconds do not.

**Run it again**: `make bench` makes `.venv-bench` with the peers (`benchmarks/requirements.txt`), trains the models and
their truth once (`benchmarks/.cache`, by digest of their settings) and measures. `BENCH="--workload convex --only
ours,pydvl"` narrows it, `BENCH=--quick` runs what takes half a minute on one model only,
`BENCH="--device cuda --dtype float32"` runs our methods on a GPU. Nothing here is asserted by a test.

**Read it.** *Factors*: what no query changes. *Pairs*: all test rows against all training rows. *Query*: one new test
row, the factors at hand. Seconds are medians, with the least and the most in brackets. Building a contender (our export
of the module, a peer's wrappers) is not timed. *Peak* is the whole process, Python and torch included; *before* is what
it held when the contender was built. Signs and factors 1/n of peers are brought to ours; a peer that knows no L2 gets
λ + l2 as its damping, so that all solve the same system. *LDS* is the linear datamodelling score: Spearman's
correlation, over random halves of the training rows, of predicted and measured test losses; a mean over models and test
rows. Intervals are 95 % bootstrap, over models and test rows; the halves themselves are drawn once, so another draw
would move all contenders together.
"""

NOTES = """\
## How the settings were chosen

An LDS depends on how the models were trained, so its absolute size, and each goal that bounds it, holds for this recipe
only. Nine recipes were tried for the MLP on digits (ReLU or tanh, 15 to 60 epochs, batches of 64 or 128, l2 0 to 3e-3),
on one model, with halves and seeds other than those above. A sketch of the dual Gauss–Newton scores at total damping
0.01 had an LDS between 0.53 and 0.72 on them, higher with more epochs, more l2 and tanh. The one kept brings EK-FAC
with sampled labels nearest to what had been measured of kronfluence elsewhere (0.544 at damping 1e-3; the sketch had
0.525). Of four recipes for the CNN the sketch was best on the one kept, by little (0.38; the others 0.35 to 0.38).

Dampings were chosen in the same search, before the engine's methods could be measured: l2 + λ is 0.01 for Hessian and
Gauss–Newton, the best or nearly so of 1e-3, 4e-3 and 0.01 for the sketch and the one at which dattri's CG had been
measured, and 1e-3 for EK-FAC, at first 2e-3, on which the sketch and kronfluence both did worse. A sweep afterwards,
over five models, changed neither:

| LDS, averaged over five models in brackets | MLP | CNN |
|---|---|---|
| `gauss_newton`, λ 1e-3 | 0.599 (0.657) | 0.300 (0.398) |
| 2e-3 | 0.621 (0.671) | 0.316 (0.410) |
| 3e-3 | 0.633 (0.678) | 0.327 (0.418) |
| 5e-3 | 0.644 (0.681) | 0.341 (0.426) |
| 9e-3, as above | 0.648 (0.679) | 0.355 (0.434) |
| 2e-2 | 0.629 (0.655) | 0.367 (0.439) |
| `ekfac`, λ 0, as above | 0.554 (0.579) | 0.277 (0.316) |
| 3e-4 | 0.545 (0.568) | 0.272 (0.312) |
| 1e-3 | 0.528 (0.550) | 0.263 (0.302) |
| 3e-3 | 0.496 (0.512) | 0.250 (0.284) |

Peers were not swept. kronfluence's own heuristic, which damps each layer by itself, is a row of its own; its LDS can be
above that at matched damping.

## What is not compared

- dattri's EK-FAC: it misaligns the bias, so its figures would slander it.
- captum's random projections (`TracInCPFastRandProj`) return ranks only.
- pyDVL 0.10 asks for numpy below 2; it is installed without its dependencies and works with the numpy that all share.
  kronfluence asks for torchvision, for which there is no build that fits a CPU torch; it never imports it, so it too is
  installed without its dependencies.
- traker's projector in one block frees its matrix after the training rows and then misses it; it runs with its default
  blocks.
"""


def write_page() -> None:
    """Render docs/benchmarks.md from the last full results."""
    records = load(results.FOLDER)
    PAGE.write_text(page(records))
    print(f"→ {PAGE.relative_to(PAGE.parent.parent)}")


def load(folder: Path) -> dict[str, Any]:
    """Return the records of all workloads that were run in full, and of what is recorded once."""
    records: dict[str, Any] = {"recorded": json.loads(RECORDED.read_text())} if RECORDED.exists() else {}
    for name in (*ORDER, fidelity_jobs.NAME, indexes.NAME, perturbation.NAME, retraining.NAME):
        path = folder / f"{name}.json"
        if path.exists():
            records[name] = json.loads(path.read_text())
    return records


def page(records: Mapping[str, Any]) -> str:
    """Return the document."""
    run = [records[name] for name in ORDER if name in records]
    parts = [INTRODUCTION]
    if run:
        parts += [_machine(run), "## Goals\n", _goals(records)]
    parts += [_workload(record) for record in run]
    if fidelity_jobs.NAME in records:
        parts.append(_jobs(records[fidelity_jobs.NAME]))
    if indexes.NAME in records:
        parts.append(indexes.section(records[indexes.NAME]))
    if perturbation.NAME in records:
        parts.append(perturbation.section(records[perturbation.NAME]))
    if retraining.NAME in records:
        parts.append(retraining.section(records[retraining.NAME]))
    if "recorded" in records:
        parts.append(_recorded(records["recorded"]))
    parts.append(NOTES)
    return "\n".join(parts)


def screen(record: Mapping[str, Any]) -> list[str]:
    """Return a workload's table in columns."""
    rows = [_header(record), *(_cells(record, row) for row in record["rows"])]
    widths = [max(len(row[column]) for row in rows if len(row) > 1) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        if len(row) > 1
        else row[0]
        for row in rows
    ]


def seconds(spread: Mapping[str, float]) -> str:
    """Return "0.123 (0.120–0.130)", or the one value that there is."""
    text = _digits(spread["median"])
    return text if spread["repeats"] == 1 else f"{text} ({_digits(spread['min'])}–{_digits(spread['max'])})"


def interval(found: Mapping[str, float]) -> str:
    """Return "0.569 (0.55–0.59)"."""
    return f"{found['mean']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.0095 else f"{value:.1g}"


def _machine(run: list[Mapping[str, Any]]) -> str:
    where = run[0]["machine"]
    others = sorted({one["machine"]["date"] for one in run})
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    quick = ", `--quick`" if any(one.get("quick") for one in run) else ""
    return (
        f"**This run**: {' and '.join(others)}, {where['processor']}, {where['cores']} cores, "
        f"{where['memory_gib']} GiB, {where['system']}; {where['threads']} threads; {where['device']}, precision "
        f"{where['dtype']}{quick}. "
        f"Python {where['python']}, {versions}.\n"
    )


def _goals(records: Mapping[str, Any]) -> str:
    rows = [["workload", "goal", "asked", "measured", ""]]
    for judged in goals.judge(records):
        goal = judged.goal
        asked = f"{'≥' if goal.at_least else '≤'} {goal.bound:g} {goal.unit}".strip()
        value = judged.why if judged.value is None else f"{_value(judged.value)} {goal.unit}".strip()
        verdict = judged.verdict if judged.verdict == "pass" else f"**{judged.verdict}**"
        rows.append([goal.workload, goal.text, asked, value, verdict])
    return table(rows)


def _value(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 2 else f"{value:.4g}"


def _workload(record: Mapping[str, Any]) -> str:
    damping = ", ".join(f"{family} {value:g}" for family, value in record["damping"].items())
    parts = [
        f"## {record['title']}\n",
        f"{record['settings'][0].upper()}{record['settings'][1:]}. λ: {damping}; l2 {record['l2']:g}.\n",
    ]
    width = len(_header(record))
    rows = [_header(record)]
    for row in record["rows"]:
        cells = _cells(record, row)
        rows.append(cells if len(cells) == width else [cells[0], *[""] * (width - 1)])
    parts.append(table(rows))
    notes = [f"{row['peer']} {row['label']}: {row['note']}" for row in record["rows"] if row.get("note")]
    parts.append("Settings: " + "; ".join(notes) + ".\n")
    if record["kind"] == "lds":
        parts.append(_differences(record))
    return "\n".join(parts)


def _header(record: Mapping[str, Any]) -> list[str]:
    head = ["contender", "factors s", "pairs s", "query s", "peak MiB", "before"]
    if record["reference"]:
        head += ["Pearson, exact", "max diff, exact"]
    if record["kind"] == "loo":
        head += ["Pearson, leave-one-out", "Spearman, leave-one-out"]
    if record["kind"] == "lds":
        head += ["models", "LDS", "averaged", "gain of averaging"]
    if any("pearson_dense" in row.get("quality", {}) for row in record["rows"]):
        head += ["Pearson, dense"]
    return head


def _cells(record: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    name = f"{row['peer']} {row['label']}"
    if "seconds" not in row:
        return [f"{name}: " + (f"missing, {row['missing']}" if "missing" in row else f"failed, {row.get('error')}")]
    quality = row["quality"]
    cells = [name, *(seconds(row["seconds"][what]) for what in ("factors", "pairs", "query"))]
    cells += [f"{row['peak_bytes'] / 2**20:.0f}", f"{row['base_bytes'] / 2**20:.0f}"]
    if record["reference"]:
        cells.append(f"{quality['pearson_exact']:.5f}")
        cells.append(f"{quality['difference_exact']:.0e}" if "difference_exact" in quality else "")
    if record["kind"] == "loo":
        cells += [f"{quality[what]['mean']:.4f}" for what in ("pearson_loo", "spearman_loo")]
    if record["kind"] == "lds":
        cells += [str(row["models"]), interval(quality["lds"])]
        several = "lds_averaged" in quality
        cells += [interval(quality["lds_averaged"]) if several else "", ""]
        if several:
            cells[-1] = f"{quality['averaging_gain']['mean']:+.3f}"
    if any("pearson_dense" in other.get("quality", {}) for other in record["rows"]):
        cells.append(f"{quality['pearson_dense']:.4f}" if "pearson_dense" in quality else "")
    return cells


def _differences(record: Mapping[str, Any]) -> str:
    found = record["differences"]
    kept = [name for name in ("ours ekfac", "ours gauss_newton") if name in found]
    others = [f"{row['peer']} {row['label']}" for row in record["rows"] if row["peer"] != "ours" and "seconds" in row]
    if not kept or not others:
        return ""
    rows = [["LDS, paired by model and test row", *kept]]
    for other in others:
        cells = [
            f"{found[name][other]['mean']:+.3f} ({found[name][other]['low']:+.3f} to {found[name][other]['high']:+.3f})"
            for name in kept
        ]
        rows.append([f"minus {other}", *cells])
    return table(rows)


def _jobs(record: Mapping[str, Any]) -> str:
    rows = [["workload", "job", "LDS", "Pearson", "Spearman", "slope", "seconds"]]
    for row in record["rows"]:
        figures = [_interval(row[what]) for what in ("lds", "pearson", "spearman", "slope")]
        rows.append([row["workload"], row["job"], *figures, f"{row['seconds']:.0f}"])
    return "\n".join(["## The same figures from the service's own jobs\n", fidelity_jobs.SAYS, table(rows)])


def _interval(values: list[float] | None) -> str:
    return "" if values is None else f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"


def _recorded(recorded: Mapping[str, Any]) -> str:
    parts = ["## Recorded once\n"]
    for name, found in recorded.items():
        parts.append(f"- **{name}** {found['version']}, {found['date']}, {found['machine']}: {found['said']}")
    return "\n".join(parts) + "\n"
