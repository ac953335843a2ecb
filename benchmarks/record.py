"""Peers that are recorded once: their figure, or why they have none, is kept in recorded.json with date and machine.

Each in a throw-away venv that holds torch, scikit-learn and numpy of constraints.txt, and the peer without its
dependencies, from the repository's root: `python -m benchmarks.record pytorch-influence-functions`.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from . import machine, statistics
from .workloads import WORKLOADS, Task

PATH = Path(__file__).parent / "recorded.json"
QUERIES = 3


def pytorch_influence_functions() -> dict[str, Any]:
    """Time one query on the MLP, and compare what it calls helpful with leave-one-out on the convex workload."""
    from pytorch_influence_functions.calc_influence_function import calc_influence_single

    def query(task: Task, t: int) -> tuple[float, np.ndarray]:
        data = task.data
        train = DataLoader(TensorDataset(data.x, data.y), batch_size=1, shuffle=True)
        test = DataLoader(TensorDataset(data.test_x, data.test_y), batch_size=1)
        started = time.perf_counter()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            # Its README: r · recursion_depth equals the number of training rows. Large values are the helpful ones.
            influences, *_ = calc_influence_single(
                task.module, train, test, t, gpu=-1, recursion_depth=len(data.x), r=1
            )
        return time.perf_counter() - started, np.array([float(value) for value in influences])

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    convex, mlp = WORKLOADS["convex"], WORKLOADS["mlp"]
    changes = convex.truth().changes.numpy()
    claimed = np.stack([query(convex.task(0), t)[1] for t in range(QUERIES)])
    with_truth = float(statistics.pearson(claimed, changes[:QUERIES]).mean())
    seconds = [query(mlp.task(0), t)[0] for t in range(QUERIES)]
    median = float(np.median(seconds))
    return {
        "query_seconds": median,
        "query_seconds_all": seconds,
        "pearson_loo": with_truth,
        "said": f"{median:.1f} s a query on the MLP on digits (median of {QUERIES}; recursion depth n, its advice). On "
        f"the convex workload what it calls helpful has Pearson {with_truth:.3f} with leave-one-out: helpful and "
        "harmful are swapped.",
    }


def bergson() -> dict[str, Any]:
    """Offer it the MLP and its arrays, and say what it answers."""
    from bergson import GradientProcessor, IndexConfig, collect_gradients
    from datasets import Dataset

    task = WORKLOADS["mlp"].task(0)
    data = Dataset.from_dict({"x": task.data.x.tolist(), "labels": task.data.y.tolist()})
    with tempfile.TemporaryDirectory() as folder:
        try:
            collect_gradients(task.module, data, GradientProcessor(), IndexConfig(run_path=folder))
        except (AttributeError, KeyError, TypeError) as error:
            said = f"{type(error).__name__}: {error}"
        else:
            raise RuntimeError("bergson took the MLP: measure it, then")
    return {
        "said": f"cannot run the workloads: it reads transformers' models and data sets of tokens (`input_ids`) only. "
        f"`collect_gradients` of the MLP: `{said}`.",
    }


PEERS = {"pytorch-influence-functions": pytorch_influence_functions, "bergson": bergson}


def main() -> None:
    """Record one peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = PEERS[asked.peer]()
    where = machine.describe(asked.threads, "cpu", "")
    entry = {
        "version": version(asked.peer),
        "date": where["date"],
        "machine": f"{where['processor']}, {where['threads']} threads, torch {torch.__version__}",
        **found,
    }
    records = json.loads(PATH.read_text()) if PATH.exists() else {}
    PATH.write_text(json.dumps({**records, asked.peer: entry}, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    print(entry["said"])


if __name__ == "__main__":
    main()
