"""captum: influence by the dense Hessian or by Arnoldi iterations, and TracIn on the last layer."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from .base import Contender, Entry, Scores, Task

ARNOLDI_DIMENSIONS = 200
PROJECTION = 100


class Captum(Contender):
    """One of its influence functions: its constructor is what others call fitting, so it is timed as factors."""

    def __init__(self, task: Task, kind: str, **settings: object) -> None:
        from captum import influence
        from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction  # not exported in 0.9

        self.task = task
        self.kind = ArnoldiInfluenceFunction if kind == "ArnoldiInfluenceFunction" else getattr(influence, kind)
        self.settings = settings
        self.folder = tempfile.TemporaryDirectory(prefix="captum-")
        self.checkpoint = str(Path(self.folder.name) / "model.pt")
        torch.save(task.module.state_dict(), self.checkpoint)

    def factors(self) -> None:
        data = self.task.data
        self.influence = self.kind(
            self.task.module,
            TensorDataset(data.x, data.y),
            self.checkpoint,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
            batch_size=self.task.n,
            sample_wise_grads_per_batch=True,
            checkpoints_load_func=_load,
            # It sums over rows where we take the mean.
            hessian_reg=self.task.total_damping("hessian") * self.task.n,
            **self.settings,
        )

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        data = self.task.data
        return np.asarray(self.influence.influence((data.test_x[rows], data.test_y[rows])).detach())


class TracInCPFast(Contender):
    """TracIn of the last linear layer over the weights along the training."""

    def __init__(self, task: Task) -> None:
        from captum.influence import TracInCPFast as Fast

        self.task = task
        self.folder = tempfile.TemporaryDirectory(prefix="captum-")
        checkpoints = []
        for number, weights in enumerate(task.trajectory or (task.module.state_dict(),)):
            checkpoints.append(str(Path(self.folder.name) / f"{number}.pt"))
            torch.save(weights, checkpoints[-1])
        data = task.data
        self.influence = Fast(
            task.module,
            list(task.module.children())[-1],
            TensorDataset(data.x, data.y),
            checkpoints,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
            batch_size=task.n,
            checkpoints_load_func=_load,
        )

    def factors(self) -> None:
        """There is nothing to prepare."""

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        data = self.task.data
        return np.asarray(self.influence.influence((data.test_x[rows], data.test_y[rows])).detach())


def _load(module: nn.Module, path: str) -> float:
    module.load_state_dict(torch.load(path, weights_only=True))
    return 1.0


def contenders(workload: str) -> dict[str, Entry]:
    """See benchmarks.peers."""
    tracin = Entry(TracInCPFast, "last layer only", is_removal=False)
    if workload == "convex":
        naive = Entry(
            lambda task: Captum(task, "NaiveInfluenceFunction", projection_dim=650, hessian_inverse_tol=0.0),
            "dense Hessian, all 650 eigenvectors",
        )
        return {"Naive": naive}
    if workload == "fashion":
        return {"TracInCPFast": tracin}
    arnoldi = Entry(
        lambda task: Captum(
            task,
            "ArnoldiInfluenceFunction",
            arnoldi_dim=ARNOLDI_DIMENSIONS,
            projection_dim=PROJECTION,
            hessian_inverse_tol=1e-4,
        ),
        f"{ARNOLDI_DIMENSIONS} iterations, {PROJECTION} eigenvectors kept",
        slow=True,
    )
    return {"Arnoldi-100": arnoldi, "TracInCPFast": tracin}
