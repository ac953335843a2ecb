"""What a workload is: real data, trained models, and what really happens when training rows are left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.data import Split

Family = Literal["hessian", "gauss_newton", "ekfac"]


@dataclass(frozen=True)
class Task:
    """One trained model to explain: what every contender is given."""

    workload: str
    module: nn.Module
    """At its trained weights, in eval mode, float32 on the CPU."""
    data: Split
    l2: float
    damping: Mapping[Family, float]
    """λ, beside l2, by the curvature that it is added to. A peer that knows no L2 gets l2 + λ, the same denominator."""
    trajectory: tuple[Mapping[str, Tensor], ...] = ()
    """Weights along the training, for methods over checkpoints."""
    others: tuple[Mapping[str, Tensor], ...] = ()
    """Weights of every seed's model, for averages over models."""
    learning_rate: float = 1e-3

    def total_damping(self, family: Family) -> float:
        """Return l2 + λ: what a peer adds to a curvature of the loss alone."""
        return self.l2 + self.damping[family]

    @property
    def n(self) -> int:
        """Training rows."""
        return len(self.data.x)

    @property
    def m(self) -> int:
        """Explained rows."""
        return len(self.data.test_x)


@dataclass(frozen=True)
class LeaveOneOut:
    """Changes of the test rows' losses when each training row is left out, 1/n kept."""

    changes: Tensor
    """(m, n), positive where the removal raises the loss."""


@dataclass(frozen=True)
class HalfSubsets:
    """Test losses after training on random halves of the rows."""

    subsets: Tensor
    """(K, n) bool."""
    losses: Tensor
    """(K, m), the mean over the training seeds."""


@dataclass(frozen=True)
class Workload:
    """A row of tables: a model family on a data set, with its truth."""

    name: str
    title: str
    architecture: Callable[[], nn.Module]
    data: Callable[[], Split]
    l2: float
    damping: Mapping[Family, float]
    models: Callable[[], Mapping[str, Tensor]]
    """name → (seeds, *shape), trained; from the cache after the first time."""
    seeds: int
    truth: Callable[[], LeaveOneOut | HalfSubsets] | None
    reference: Callable[[], Tensor] | None
    """(m, n): the exact scores of the first model, in float64, to agree with."""
    reference_is: str
    settings: str
    """How the models were trained, in words."""
    kind: Literal["loo", "lds", "speed"]
    trajectory_epochs: tuple[int, ...] = field(default=())

    def task(self, seed: int) -> Task:
        """Return the model of a seed, 0 … seeds − 1."""
        stacked = self.models()
        final = [name for name in stacked if "/" not in name]
        others = tuple({name: stacked[name][other] for name in final} for other in range(self.seeds))
        trajectory = tuple(
            {name: stacked[f"epoch{epoch}/{name}"][seed] for name in final} for epoch in self.trajectory_epochs
        )
        module = self.architecture()
        module.load_state_dict(others[seed])
        return Task(self.name, module.eval(), self.data(), self.l2, self.damping, trajectory, others)


def half_subsets(n: int, count: int, seed: int) -> Tensor:
    """Return random halves of n rows, (count, n) bool."""
    generator = torch.Generator().manual_seed(seed)
    subsets = torch.zeros(count, n, dtype=torch.bool)
    for subset in subsets:
        subset[torch.randperm(n, generator=generator)[: n // 2]] = True
    return subsets
