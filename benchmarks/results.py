"""From what workers measured to the record that is published."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import statistics
from .workloads.base import HalfSubsets, LeaveOneOut, Workload

FOLDER = Path(__file__).parent / "results"


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": float(np.median(values)), "min": min(values), "max": max(values), "repeats": len(values)}


class Quality:
    """How good scores are, on one workload: everything that its truth and its reference can say."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.truth = workload.truth() if workload.truth else None
        self.reference = None if workload.reference is None else workload.reference().numpy()
        self.lds: dict[str, np.ndarray] = {}
        """By contender, (models, m)."""

    def of(self, name: str, scores: np.ndarray, is_removal: bool) -> dict[str, Any]:
        """Return what is said of the scores (models, m, n) of one contender."""
        found: dict[str, Any] = {}
        if self.reference is not None:
            found["pearson_exact"] = float(np.mean(statistics.pearson(scores[0], self.reference)))
            if is_removal:
                found["difference_exact"] = statistics.relative_difference(scores[0], self.reference)
        if isinstance(self.truth, LeaveOneOut):
            changes = self.truth.changes.numpy()
            for what, function in (("pearson", statistics.pearson), ("spearman", statistics.spearman)):
                found[f"{what}_loo"] = asdict(statistics.bootstrap(function(scores[0], changes)))
        if isinstance(self.truth, HalfSubsets):
            subsets, losses = self.truth.subsets.numpy(), self.truth.losses.numpy()
            self.lds[name] = np.stack([statistics.lds(one, subsets, losses) for one in scores])
            found["lds"] = asdict(statistics.bootstrap(self.lds[name]))
            found["lds_models"] = self.lds[name].mean(axis=1).tolist()
            if len(scores) > 1:
                mean = statistics.lds(scores.mean(axis=0), subsets, losses)
                found["lds_averaged"] = asdict(statistics.bootstrap(mean))
                found["averaging_gain"] = asdict(statistics.bootstrap(mean - self.lds[name].mean(axis=0)))
                found["averaged_models"] = len(scores)
        return found

    def differences(self, ours: str) -> dict[str, dict[str, Any]]:
        """Return the LDS of one of ours minus each other contender's, paired by model and test row."""
        if ours not in self.lds:
            return {}
        found = {}
        for other, values in self.lds.items():
            if other != ours:
                models = min(len(values), len(self.lds[ours]))
                paired = statistics.bootstrap(self.lds[ours][:models] - values[:models])
                found[other] = {**asdict(paired), "models": models}
        return found


def agreement(scores: dict[str, np.ndarray], dense: str) -> dict[str, float]:
    """Return the mean Pearson per query of each contender of ours with its dense form, on the first model."""
    if dense not in scores:
        return {}
    return {
        name: float(np.mean(statistics.pearson(values[0], scores[dense][0])))
        for name, values in scores.items()
        if name.startswith("ours ekfac") and name != dense
    }


def merge(workload: Workload, records: list[tuple[dict[str, Any], np.ndarray | None]]) -> dict[str, Any]:
    """Return the published record of a workload.

    Args:
        workload: which.
        records: what each worker wrote, and its scores.
    """
    quality = Quality(workload)
    rows, by_name = [], {}
    for record, scores in records:
        name = f"{record['peer']} {record['label']}"
        row = {key: record[key] for key in ("peer", "label", "note", "error", "missing", "models") if key in record}
        if scores is not None:
            by_name[name] = scores
            row["seconds"] = {what: spread(values) for what, values in record["seconds"].items()}
            row["peak_bytes"], row["base_bytes"] = record["peak_bytes"], record["base_bytes"]
            row["quality"] = quality.of(name, scores, record["is_removal"])
        rows.append(row)
    dense = agreement(by_name, "ours ekfac dense")
    for row in rows:
        if f"{row['peer']} {row['label']}" in dense:
            row["quality"]["pearson_dense"] = dense[f"{row['peer']} {row['label']}"]
    return {
        "workload": workload.name,
        "title": workload.title,
        "settings": workload.settings,
        "l2": workload.l2,
        "damping": dict(workload.damping),
        "kind": workload.kind,
        "reference": workload.reference_is,
        "rows": rows,
        "differences": {ours: quality.differences(ours) for ours in by_name if ours.startswith("ours ")},
    }


def write(name: str, record: dict[str, Any]) -> Path:
    """Write a record under benchmarks/results/."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def table(rows: list[list[str]]) -> str:
    """Return a Markdown table whose first row is its header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
