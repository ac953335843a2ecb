"""pyDVL: influence by a direct solve, or by block conjugate gradients. Its scores are −∇m_tᵀ H⁻¹ ∇ℓ_i · (−1)."""

import math

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from .base import Contender, Entry, Scores, Task


class PyDVL(Contender):
    """One of its influence models, fitted on all rows in one batch."""

    def __init__(self, task: Task, kind: str, **settings: object) -> None:
        import pydvl.influence.torch as pydvl

        self.task = task
        self.model = getattr(pydvl, kind)(
            task.module,
            nn.functional.cross_entropy,
            regularization=task.total_damping("hessian"),
            **settings,
        )

    def factors(self) -> None:
        data = self.task.data
        self.model = self.model.fit(DataLoader(TensorDataset(data.x, data.y), batch_size=self.task.n))

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        data = self.task.data
        found = self.model.influences(data.test_x[rows], data.test_y[rows], data.x, data.y)
        return np.asarray(torch.as_tensor(found).detach()) / self.task.n


def contenders(workload: str) -> dict[str, Entry]:
    """See benchmarks.peers."""
    cg = {"maxiter": 20, "rtol": 1e-8, "solve_simultaneously": True, "warn_on_max_iteration": False}
    if workload == "convex":
        return {"Direct": Entry(lambda task: PyDVL(task, "DirectInfluence"), "dense Hessian")}
    if workload == "mlp":
        block_cg = Entry(
            lambda task: PyDVL(task, "CgInfluence", **cg),
            "block CG, at most 20 steps; one query alone ends elsewhere than among all",
            slow=True,
            query_tolerance=math.inf,
        )
        return {"block CG-20": block_cg}
    return {}
