"""dattri: explicit, CG and LiSSA influence, and TRAK. Its EK-FAC is left out: it misaligns the bias."""

import math

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from .base import Contender, Entry, Scores, Task

LISSA_SCALING = 10.0


def _attribution_task(task: Task):
    from dattri.task import AttributionTask

    def loss(parameters, batch):
        x, y = batch
        return nn.functional.cross_entropy(torch.func.functional_call(task.module, parameters, x), y.long())

    return AttributionTask(loss_func=loss, model=task.module, checkpoints=task.module.state_dict())


class Dattri(Contender):
    """One of its attributors; every loader hands all rows out in one batch, so queries are solved once."""

    def __init__(self, task: Task, kind: str, **settings: object) -> None:
        import dattri.algorithm.influence_function as algorithms

        self.task = task
        self.attributor = getattr(algorithms, kind)(task=_attribution_task(task), device="cpu", **settings)
        self.train = _loader(task.data.x, task.data.y)

    def factors(self) -> None:
        self.attributor.cache(self.train)

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        data = self.task.data
        with torch.no_grad():
            found = self.attributor.attribute(self.train, _loader(data.test_x[rows], data.test_y[rows]))
        return np.asarray(found.T) / self.task.n


class DattriTRAK(Contender):
    """Its TRAK on one model, projected to 512 dimensions."""

    def __init__(self, task: Task, dimensions: int = 512) -> None:
        from dattri.algorithm.trak import TRAKAttributor
        from dattri.task import AttributionTask

        def outputs_of(parameters, batch):
            x, y = batch
            return torch.func.functional_call(task.module, parameters, x[None])[0], y.long()

        def margin(parameters, batch):
            outputs, y = outputs_of(parameters, batch)
            is_label = torch.arange(len(outputs)) == y
            own = torch.where(is_label, outputs, 0).sum()
            return own - torch.where(is_label, -torch.inf, outputs).logsumexp(dim=0)

        def probability(parameters, batch):
            outputs, y = outputs_of(parameters, batch)
            return torch.exp(-nn.functional.cross_entropy(outputs[None], y[None]))

        attribution = AttributionTask(loss_func=margin, model=task.module, checkpoints=task.module.state_dict())
        self.task = task
        self.train = _loader(task.data.x, task.data.y)
        self.attributor = TRAKAttributor(
            task=attribution,
            correct_probability_func=probability,
            device="cpu",
            projector_kwargs={"proj_dim": dimensions, "device": "cpu"},
        )

    def factors(self) -> None:
        with torch.no_grad():
            self.attributor.cache(self.train)

    def pairs(self) -> Scores:
        return self._scores(slice(None))

    def one_query(self, t: int) -> Scores:
        return self._scores(slice(t, t + 1))[0]

    def _scores(self, rows: slice) -> Scores:
        data = self.task.data
        with torch.no_grad():
            found = self.attributor.attribute(_loader(data.test_x[rows], data.test_y[rows]))
        return np.asarray(found.T)


def _loader(x: torch.Tensor, y: torch.Tensor) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=len(x), shuffle=False)


def contenders(workload: str) -> dict[str, Entry]:
    """See benchmarks.peers."""
    cg = Entry(
        lambda task: Dattri(task, "IFAttributorCG", max_iter=20, regularization=task.total_damping("hessian")),
        "CG, 20 steps; on a network one query alone ends elsewhere than among all",
        query_tolerance=math.inf,
        slow=workload != "convex",
    )
    trak = Entry(DattriTRAK, "one checkpoint, 512 dimensions", is_removal=False)
    if workload == "convex":
        explicit = Entry(
            lambda task: Dattri(task, "IFAttributorExplicit", regularization=task.total_damping("hessian")),
            "dense Hessian, made again for each call",
            query_is_pairs=True,
        )
        lissa = Entry(
            lambda task: Dattri(
                task,
                "IFAttributorLiSSA",
                batch_size=100,
                num_repeat=1,
                recursion_depth=500,
                damping=task.total_damping("hessian") / LISSA_SCALING,  # it adds scaling × damping
                scaling=LISSA_SCALING,
            ),
            "LiSSA, 500 steps of 100 rows",
            query_tolerance=1.0,  # it draws other rows
        )
        return {"Explicit": explicit, "CG-20": cg, "LiSSA-500": lissa}
    if workload == "mlp":
        return {"CG-20": cg, "TRAK-512": trak}
    return {}
