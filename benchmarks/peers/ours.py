"""undue: the engine's methods, each on a program exported from the same module."""

import os
from collections.abc import Sequence
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
    checkpoints: str = ""
    """Which it takes: its own weights, those along the "trajectory", or the models of all "seeds"."""
    averaged: bool = False
    """Whether the scores are averaged over the checkpoints."""


class Ours(Contender):
    """Fits once, then scores any test rows with the same factors: what `influence` does, with a clock between."""

    def __init__(self, task: Task, setting: Setting) -> None:
        from undue_service.domain.specs import ObjectiveSpec
        from undue_service.engine.data import TensorRows
        from undue_service.engine.methods import REGISTRY
        from undue_service.engine.methods.base import Checkpoint
        from undue_service.engine.objective import Objective
        from undue_service.engine.program import Program

        if setting.method not in REGISTRY:
            raise Unavailable(f"the registry has no method {setting.method!r}")
        self.task, self.setting = task, setting
        self.method = REGISTRY[setting.method]
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        exported = torch.export.export(task.module, (task.data.x[:3],), dynamic_shapes=dynamic)
        name = os.environ.get("UNDUE_BENCH_DTYPE") or self.method.spec.precision
        program = Program.from_exported(exported).to(os.environ.get("UNDUE_BENCH_DEVICE") or "cpu", DTYPES[name])
        self.objective = Objective(program, ObjectiveSpec("cross_entropy", task.l2))
        (spec,) = program.inputs
        self.train = TensorRows({spec.name: task.data.x}, task.data.y)
        self.test = TensorRows({spec.name: task.data.test_x}, task.data.test_y)
        weights = {"": (), "own": (task.module.state_dict(),), "trajectory": task.trajectory, "seeds": task.others}
        self.settings = {
            "damping": task.damping[setting.damping] if self.method.spec.uses_damping else None,
            "checkpoints": tuple(Checkpoint(dict(at), task.learning_rate) for at in weights[setting.checkpoints]),
            **setting.arguments,
        }

    def factors(self) -> None:
        from undue_service.engine.methods.base import Problem

        self.problem = Problem(self.objective, self.train, **self.settings)
        method = self.method
        if self.setting.averaged:
            from undue_service.engine.methods.ensemble import averaged

            method = averaged(method)
        self.fitted, self.used = method.fit(self.problem), method

    def pairs(self) -> Scores:
        return self._scores(range(self.task.m))

    def one_query(self, t: int) -> Scores:
        return self._scores([t])[0]

    def _scores(self, rows: Sequence[int]) -> Scores:
        from undue_service.engine.progress import silent
        from undue_service.engine.queries import each_asked

        found = np.empty((len(rows), self.task.n), dtype=np.float32)
        start = 0
        memory = self.problem.memory_bytes // 4
        columns = max(self.used.query_columns, self.fitted.query_columns)
        numel = columns * self.objective.space.dim + (2 * self.task.n if self.setting.averaged else 0)
        for asked in each_asked(
            self.objective, self.test, rows, "loss", mean=False, row_numel=numel, memory_bytes=memory, progress=silent
        ):
            queries = self.used.query(self.fitted, self.problem, asked)
            for block in self.used.score(self.fitted, queries, self.problem):
                scores = block.scores.to("cpu", torch.float32).numpy()
                found[start : start + len(asked), block.index.cpu().numpy()] = scores
            start += len(asked)
        return found


_PLAIN = {"leverage_correction": False}
_EXACT = Setting("exact", "dense Hessian, without the leverage correction", arguments=_PLAIN)
_LEVERAGE = Setting("exact", "dense Hessian, residuals corrected by their leverage")
_CG = Setting("cg", "block CG to residual 1e-6", arguments={"tolerance": 1e-6, **_PLAIN})
_LISSA = Setting(
    "lissa", "to residual 1e-2; scale, depth and batch chosen by the engine", arguments={"tolerance": 1e-2}
)
_GAUSS_NEWTON_5 = Setting(
    "gauss_newton", "averaged by the engine over five models", "gauss_newton", checkpoints="seeds", averaged=True
)
_EKFAC = Setting("ekfac", "exact Fisher, rank by default", "ekfac")
_EKFAC_DENSE = Setting("ekfac", "exact Fisher, 1/(Λ + l2 + λ) at full rank", "ekfac", {"rank": 1024})
_GAUSS_NEWTON = Setting("gauss_newton", "dual, rows by default", "gauss_newton")
_ARNOLDI = Setting("arnoldi", "rank by default")
_GRAD_DOT = Setting("grad_dot", "no curvature")
_GRAD_COS = Setting("grad_cos", "no curvature")
_RELATIF = Setting("relatif", "by its default normalisation", "gauss_newton")
_REPRESENTATION = Setting("representation", "what the last layer reads")
_TRAK = Setting("trak", "one checkpoint", checkpoints="own")
_TRAK_5 = Setting("trak", "five models of other seeds", checkpoints="seeds")
_TRACIN = Setting("tracin", "five checkpoints along the training", checkpoints="trajectory")

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
        "gauss_newton × 5": _GAUSS_NEWTON_5,
        "ekfac": _EKFAC,
        "ekfac dense": _EKFAC_DENSE,
        "arnoldi": _ARNOLDI,
        "relatif": _RELATIF,
        "grad_dot": _GRAD_DOT,
        "grad_cos": _GRAD_COS,
        "representation": _REPRESENTATION,
        "trak": _TRAK,
        "trak × 5": _TRAK_5,
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
            query_tolerance=0.1 if setting.method == "lissa" else 1e-2,
            is_removal=setting.method in ("exact", "cg", "lissa", "gauss_newton", "ekfac", "arnoldi"),
            device="any",
        )
        for label, setting in _SETTINGS[workload].items()
    }
