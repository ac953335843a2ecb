"""undue: the engine's methods, each on a program exported from the same module."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .base import Contender, Entry, Scores, Task, Unavailable

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """One method as it is called."""

    method: str
    note: str
    damping: str = "hessian"
    """Whose λ of the task it takes."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `influence`."""


class Ours(Contender):
    """Fits once, then scores any test rows with the same factors."""

    def __init__(self, task: Task, setting: Setting) -> None:
        from undue_service.domain.specs import ObjectiveSpec
        from undue_service.engine.data import TensorRows
        from undue_service.engine.methods import REGISTRY
        from undue_service.engine.objective import Objective
        from undue_service.engine.program import Program

        if setting.method not in REGISTRY:
            raise Unavailable(f"the registry has no method {setting.method!r} yet")
        self.task, self.setting = task, setting
        self.method = REGISTRY[setting.method]
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        exported = torch.export.export(task.module, (task.data.x[:3],), dynamic_shapes=dynamic)
        name = os.environ.get("UNDUE_BENCH_DTYPE") or self.method.spec.precision
        program = Program.from_exported(exported).to(os.environ.get("UNDUE_BENCH_DEVICE", "cpu"), DTYPES[name])
        self.objective = Objective(program, ObjectiveSpec("cross_entropy", task.l2))
        (spec,) = program.inputs
        self.train = TensorRows({spec.name: task.data.x}, task.data.y)
        self.test = TensorRows({spec.name: task.data.test_x}, task.data.test_y)
        self.damping = task.damping[setting.damping] if self.method.spec.uses_damping else None

    def factors(self) -> None:
        from undue_service.engine.methods import Problem

        self.problem = Problem(self.objective, self.train, self.damping, **self.setting.arguments)
        self.fitted = self.method.fit(self.problem)

    def pairs(self) -> Scores:
        return self._scores(range(self.task.m))

    def one_query(self, t: int) -> Scores:
        return self._scores([t])[0]

    def _scores(self, rows: range | list[int]) -> Scores:
        from undue_service.engine.queries import each_query

        found = np.empty((len(rows), self.task.n), dtype=np.float32)
        start = 0
        for gradients, _ in each_query(self.objective, self.test, rows, "loss", self.problem.memory_bytes // 4):
            solution = self.method.precondition(self.fitted, gradients)
            m = gradients.shape[1]
            for block in self.method.score(self.fitted, solution.value, self.problem):
                found[start : start + m, block.index.numpy()] = block.scores.to("cpu", torch.float32).numpy()
            start += m
        return found


_PLAIN = {"leverage_correction": False}
_EXACT = Setting("exact", "dense Hessian, without the leverage correction", arguments=_PLAIN)
_LEVERAGE = Setting("exact", "dense Hessian, residuals corrected by their leverage")
_CG = Setting("cg", "block CG to residual 1e-6", arguments={"tolerance": 1e-6, **_PLAIN})
_LISSA = Setting("lissa", "scale, depth and batch chosen by the engine")
_EKFAC = Setting("ekfac", "exact Fisher, rank by default", "ekfac")
_EKFAC_DENSE = Setting("ekfac", "exact Fisher, 1/(Λ + l2 + λ) as it is", "ekfac", {"rank": 0})
_GAUSS_NEWTON = Setting("gauss_newton", "dual, rows by default", "gauss_newton")
_ARNOLDI = Setting("arnoldi", "rank by default")
_GRAD_DOT = Setting("grad_dot", "no curvature")
_TRAK = Setting("trak", "one checkpoint")
_TRACIN = Setting("tracin", "five checkpoints along the training")

_SETTINGS: dict[str, dict[str, Setting]] = {
    "convex": {
        "exact": _EXACT,
        "exact, leverage": _LEVERAGE,
        "cg 1e-6": _CG,
        "lissa": _LISSA,
        "gauss_newton": _GAUSS_NEWTON,
        "ekfac": _EKFAC,
        "arnoldi": _ARNOLDI,
        "grad_dot": _GRAD_DOT,
    },
    "mlp": {
        "gauss_newton": _GAUSS_NEWTON,
        "ekfac": _EKFAC,
        "ekfac dense": _EKFAC_DENSE,
        "arnoldi": _ARNOLDI,
        "grad_dot": _GRAD_DOT,
        "trak": _TRAK,
        "tracin": _TRACIN,
    },
    "fashion": {
        "gauss_newton": _GAUSS_NEWTON,
        "ekfac": _EKFAC,
        "ekfac rank 4": Setting("ekfac", "exact Fisher, rank 4", "ekfac", {"rank": 4}),
        "ekfac rank 8": Setting("ekfac", "exact Fisher, rank 8", "ekfac", {"rank": 8}),
        "ekfac dense": _EKFAC_DENSE,
        "grad_dot": _GRAD_DOT,
    },
    "cnn": {
        "gauss_newton": _GAUSS_NEWTON,
        "ekfac": _EKFAC,
        "arnoldi": _ARNOLDI,
        "grad_dot": _GRAD_DOT,
    },
}


def contenders(workload: str) -> dict[str, Entry]:
    """See benchmarks.peers."""
    return {
        label: Entry(
            lambda task, setting=setting: Ours(task, setting),
            setting.note,
            is_removal=setting.method in ("exact", "cg", "lissa", "gauss_newton", "ekfac", "arnoldi"),
            device="any",
        )
        for label, setting in _SETTINGS[workload].items()
    }
