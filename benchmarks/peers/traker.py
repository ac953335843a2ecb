"""TRAK by its authors' traker, on one model, projected to 512 dimensions without CUDA kernels."""

import logging
import tempfile

import numpy as np

from .base import Contender, Entry, Scores, Task

DIMENSIONS = 512
BATCH = 512


class Traker(Contender):
    """Its folder of memory maps is new with each factors()."""

    def __init__(self, task: Task) -> None:
        import torch
        from trak import TRAKer
        from trak.projectors import BasicProjector, ProjectionType

        self.task = task
        self.projector = BasicProjector(
            grad_dim=sum(parameter.numel() for parameter in task.module.parameters()),
            proj_dim=DIMENSIONS,
            seed=0,
            proj_type=ProjectionType.rademacher,
            device="cpu",
            # Its default: in one block it frees its matrix after the training rows and then misses it.
            block_size=100,
            dtype=torch.float32,
        )
        self.kind = TRAKer
        self.experiments = 0

    def factors(self) -> None:
        data = self.task.data
        self.folder = tempfile.TemporaryDirectory(prefix="traker-")
        self.traker = self.kind(
            model=self.task.module,
            task="image_classification",
            train_set_size=self.task.n,
            save_dir=self.folder.name,
            device="cpu",
            projector=self.projector,
            proj_dim=DIMENSIONS,
            logging_level=logging.CRITICAL,
            use_half_precision=False,
        )
        self.traker.load_checkpoint(self.task.module.state_dict(), model_id=0)
        for x, y in zip(data.x.split(BATCH), data.y.split(BATCH), strict=True):
            self.traker.featurize(batch=(x, y), num_samples=len(x))
        self.traker.finalize_features()

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        data = self.task.data
        x, y = data.test_x[rows], data.test_y[rows]
        self.experiments += 1
        name = f"scores-{self.experiments}"
        self.traker.start_scoring_checkpoint(
            exp_name=name, checkpoint=self.task.module.state_dict(), model_id=0, num_targets=len(x)
        )
        self.traker.score(batch=(x, y), num_samples=len(x))
        return np.asarray(self.traker.finalize_scores(exp_name=name)).T.copy()


def contenders(workload: str) -> dict[str, Entry]:
    """See benchmarks.peers."""
    if workload == "mlp":
        return {"TRAK-512": Entry(Traker, "one checkpoint, 512 dimensions", is_removal=False)}
    return {}
