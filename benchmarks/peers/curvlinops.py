"""curvlinops: an EK-FAC operator with sampled labels; gradients of rows are its user's, by vmap(grad)."""

import numpy as np
import torch
from torch import Tensor, nn

from .base import Contender, Entry, Scores, Task
from .gradients import loss_gradients, rows_at_once

BATCH = 512


class Curvlinops(Contender):
    """(EK-FAC + λI)⁻¹ applied to the gradients of the queries, then products with those of the training rows."""

    def __init__(self, task: Task) -> None:
        import curvlinops

        self.library = curvlinops
        self.task = task
        self.parameters = list(task.module.parameters())

    def factors(self) -> None:
        data = self.task.data
        batches = list(zip(data.x.split(BATCH), data.y.split(BATCH), strict=True))
        operator = self.library.EKFACLinearOperator(
            self.task.module,
            nn.CrossEntropyLoss(),
            self.parameters,
            batches,
            check_deterministic=False,
            separate_weight_and_bias=False,
        )
        operator.compute_kronecker_factors()
        operator.compute_eigenvalue_correction()
        self.inverse = self.library.KFACInverseLinearOperator(
            operator, damping=self.task.total_damping("ekfac"), use_exact_damping=True
        )

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        task, data = self.task, self.task.data
        solved: Tensor = self.inverse @ loss_gradients(task.module, data.test_x[rows], data.test_y[rows]).T
        size = rows_at_once(task.module)
        found = torch.empty(solved.shape[1], task.n)
        for start in range(0, task.n, size):
            part = slice(start, start + size)
            found[:, part] = (loss_gradients(task.module, data.x[part], data.y[part]) @ solved).T
        return np.asarray(found.detach()) / task.n


def contenders(_: str) -> dict[str, Entry]:
    """See benchmarks.peers."""
    return {"EK-FAC": Entry(Curvlinops, "one sampled label a row, damping matched to ours")}
