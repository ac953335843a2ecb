"""`python -m benchmarks`: measures, writes benchmarks/results/, prints the tables and renders docs/benchmarks.md."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import fidelity_jobs, indexes, machine, perturbation, render, results
from .peers import NAMES, Entry, contenders
from .workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
TIMEOUT = 1200
"""Seconds of one process."""


def main() -> None:
    """Measure what is asked for."""
    asked = _arguments()
    if asked.render:
        render.write_page()
        return
    started = time.perf_counter()
    where = machine.describe(asked.threads, asked.device, asked.dtype)
    suffix = "" if asked.device == "cpu" and not asked.dtype else f"-{asked.device}-{asked.dtype or 'default'}"
    for name in asked.workload:
        workload = WORKLOADS[name]
        print(f"{workload.title}: preparing models and truth", flush=True)
        workload.models()
        if workload.truth is not None:
            workload.truth()
        with tempfile.TemporaryDirectory(prefix="undue-bench-") as folder:
            measured = [
                _measured(asked, name, peer, label, entry, Path(folder) / str(number))
                for number, (peer, label, entry) in enumerate(_chosen(asked, name))
            ]
            record = results.merge(workload, measured) | {"machine": where, "quick": asked.quick}
        path = results.write(f"{name}{suffix}{'-part' if asked.only else ''}", record)
        print("\n".join(render.screen(record)))
        print(f"→ {path.relative_to(ROOT)}\n", flush=True)
    print(f"{time.perf_counter() - started:.0f} s in all")
    if not (asked.only or suffix):
        print("fidelity by jobs of the service", flush=True)
        fidelity_jobs.measure()
        print("the index", flush=True)
        indexes.measure(asked.threads)
        print("an attacked image", flush=True)
        perturbation.measure()
        render.write_page()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", type=_names(WORKLOADS), default=list(WORKLOADS), help="comma-separated")
    parser.add_argument("--only", type=_names(NAMES), default=[], help="peers, comma-separated; writes …-part.json")
    parser.add_argument("--quick", action="store_true", help="one model and one repeat of what takes half a minute")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; only our methods run on cuda")
    parser.add_argument("--dtype", default="", choices=["", "float64", "float32", "bfloat16"], help="of our methods")
    parser.add_argument("--render", action="store_true", help="only render docs/benchmarks.md from the last results")
    return parser.parse_args()


def _names(known: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return parse


def _chosen(asked: argparse.Namespace, workload: str) -> Iterator[tuple[str, str, Entry]]:
    for peer in asked.only or NAMES:
        for label, entry in contenders(peer, workload).items():
            if asked.device == "cpu" or entry.device == "any":
                yield peer, label, entry


def _measured(
    asked: argparse.Namespace, workload: str, peer: str, label: str, entry: Entry, out: Path
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Run a worker to its end; what went wrong is part of the record."""
    out.mkdir()
    models = WORKLOADS[workload].seeds
    repeats = asked.repeats
    if entry.slow:
        models, repeats = min(models, 1 if asked.quick else 2), 1
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", peer, label, workload, str(out)]
    command += ["--threads", str(asked.threads), "--repeats", str(repeats), "--models", str(models)]
    command += ["--device", asked.device, "--dtype", asked.dtype]
    threads = {name: str(asked.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    started = time.perf_counter()
    record: dict[str, Any] = {"peer": peer, "label": label, "note": entry.note}
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        record["error"] = f"not done after {TIMEOUT} s"
    else:
        written = out / "record.json"
        if written.exists():
            record = json.loads(written.read_text())
        else:
            record["error"] = f"the process ended with {ended.returncode}: {ended.stderr[-300:]}"
        if "error" in record:
            print(ended.stderr[-2000:], file=sys.stderr)
    said = record.get("error") or record.get("missing") or ""
    print(f"  {peer} {label}: {time.perf_counter() - started:.0f} s {said}", flush=True)
    scores = out / "scores.npy"
    return record, np.load(scores) if scores.exists() else None


if __name__ == "__main__":
    main()
