"""Measures one contender on one workload, in a process of its own; see `python -m benchmarks`."""

import argparse
import gc
import json
import os
import platform
import resource
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .peers import Contender, Entry, Unavailable, contenders
from .workloads import WORKLOADS, Task, Workload

QUERIES = (0, 1, 2)
LARGEST_FIRST_QUERY = 5.0
"""Seconds: where one query takes more, it is asked once."""


def main() -> None:
    """Write record.json, and scores.npy where it ran."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("label")
    parser.add_argument("workload")
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    os.environ["UNDUE_BENCH_DEVICE"], os.environ["UNDUE_BENCH_DTYPE"] = asked.device, asked.dtype
    entry = contenders(asked.peer, asked.workload)[asked.label]
    record: dict[str, Any] = {"peer": asked.peer, "label": asked.label, "workload": asked.workload, "note": entry.note}
    record |= {"is_removal": entry.is_removal, "threads": asked.threads, "python": platform.python_version()}
    try:
        record |= measure(entry, WORKLOADS[asked.workload], asked.models, asked.repeats, asked.out)
    except Unavailable as why:
        record["missing"] = str(why)
    except Exception as error:
        traceback.print_exc()
        record["error"] = f"{type(error).__name__}: {error}"
    (asked.out / "record.json").write_text(json.dumps(record))


def measure(entry: Entry, workload: Workload, models: int, repeats: int, out: Path) -> dict[str, Any]:
    """Return seconds of each repeat and bytes; write the scores of each model."""
    seconds: dict[str, list[float]] = {"factors": [], "pairs": [], "query": []}
    scores: list[np.ndarray] = []
    base = 0
    for repeat in range(max(repeats, models)):
        model = repeat % models
        task = workload.task(model)
        contender = entry.make(task)
        gc.collect()
        base = base or _peak_bytes()
        found = _measure_once(contender, entry, task, seconds)
        if repeat == model:
            scores.append(np.asarray(found, dtype=np.float32))
        del contender, task
    np.save(out / "scores.npy", np.stack(scores))
    return {
        "seconds": seconds,
        "peak_bytes": _peak_bytes(),
        "base_bytes": base,
        "models": models,
        "repeats": max(repeats, models),
    }


def _measure_once(contender: Contender, entry: Entry, task: Task, seconds: dict[str, list[float]]) -> np.ndarray:
    """Return the scores of all pairs; append what each stage took.

    Raises:
        ValueError: where scores are not finite, of another shape, or of another query than all pairs have.
    """
    _timed(seconds["factors"], contender.factors)
    found = _timed(seconds["pairs"], contender.pairs)
    if found.shape != (task.m, task.n) or not np.isfinite(found).all():
        raise ValueError(f"scores of shape {found.shape}, finite: {np.isfinite(found).all()}")
    for t in QUERIES:
        one = _timed(seconds["query"], partial(contender.one_query, t))
        differs = np.abs(one - found[t]).max() / np.abs(found[t]).max()
        if differs > entry.query_tolerance:
            raise ValueError(f"the scores of query {t} alone differ from those among all by {differs:.1e}")
        if entry.query_is_pairs or seconds["query"][-1] > LARGEST_FIRST_QUERY:
            break
    return found


def _timed(into: list[float], what: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    found = what()
    into.append(time.perf_counter() - started)
    return found


def _peak_bytes() -> int:
    """Return the most that this process ever held. `ru_maxrss` would do but for what a parent leaves in it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
