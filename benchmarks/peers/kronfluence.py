"""kronfluence: EK-FAC with sampled labels."""

import logging
import math
import shutil
import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from .base import Contender, Entry, Scores, Task

BATCH = 512


class Kronfluence(Contender):
    """Factors and pairwise scores by its Analyzer, which keeps both in files, here in a folder of its own."""

    def __init__(self, task: Task, damping: float | None, low_rank: int | None = None) -> None:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments
        from kronfluence.task import Task as KronfluenceTask

        class Classification(KronfluenceTask):
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                x, y = batch
                logits = model(x)
                if sample:
                    with torch.no_grad():
                        y = torch.multinomial(logits.softmax(dim=1), num_samples=1).flatten()
                return nn.functional.cross_entropy(logits, y, reduction="sum")

            def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
                return self.compute_train_loss(batch, model)

        logging.disable(logging.WARNING)
        self.task = task
        self.folder = tempfile.mkdtemp(prefix="kronfluence-")
        classification = Classification()
        self.analyzer = Analyzer(
            analysis_name="benchmark",
            model=prepare_model(task.module, classification),
            task=classification,
            cpu=True,
            output_dir=self.folder,
            disable_tqdm=True,
            disable_model_save=True,
        )
        self.train = TensorDataset(task.data.x, task.data.y)
        self.factor_arguments = FactorArguments(strategy="ekfac")
        self.score_arguments = ScoreArguments(damping_factor=damping, query_gradient_low_rank=low_rank)

    def __del__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def factors(self) -> None:
        self.analyzer.fit_all_factors(
            "factors",
            self.train,
            per_device_batch_size=BATCH,
            factor_args=self.factor_arguments,
            overwrite_output_dir=True,
        )

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        data = self.task.data
        query = TensorDataset(data.test_x[rows], data.test_y[rows])
        self.analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            query,
            self.train,
            per_device_query_batch_size=len(query),
            per_device_train_batch_size=BATCH,
            score_args=self.score_arguments,
            overwrite_output_dir=True,
        )
        return np.asarray(self.analyzer.load_pairwise_scores("scores")["all_modules"]) / self.task.n


def contenders(workload: str) -> dict[str, Entry]:
    """See benchmarks.peers."""

    def entry(damping: str, low_rank: int | None, note: str, slow: bool) -> Entry:
        return Entry(
            lambda task: Kronfluence(task, task.total_damping("ekfac") if damping == "matched" else None, low_rank),
            note,
            slow=slow,
            query_tolerance=math.inf if low_rank else Entry.query_tolerance,  # its truncation depends on the others
        )

    slow = workload == "fashion"
    matched = entry("matched", None, "one sampled label a row, damping matched to ours", slow)
    if workload == "fashion":
        return {"EK-FAC": matched, "EK-FAC rank 4": entry("matched", 4, "queries truncated to rank 4", slow)}
    heuristic = entry("heuristic", None, "0.1 × the mean eigenvalue of each layer, its users' habit", slow)
    return {"EK-FAC": matched, "EK-FAC heuristic": heuristic}
