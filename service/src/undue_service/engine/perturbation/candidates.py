"""The training rows that attacks perturb, and what stays as it is of each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import training_batches
from undue_service.engine.objective import Objective


@dataclass(frozen=True)
class Candidates:
    """K attacks of M rows each."""

    rows: Tensor
    """Their numbers, (K, M) int64."""
    name: str
    """Of the input that moves."""
    placed: Batch
    """All rows, attack after attack, (K · M, …), as they were."""

    @classmethod
    def read(cls, objective: Objective, train: Rows, rows: Tensor, name: str) -> "Candidates":
        """Read the rows (K, M)."""
        flat = rows.reshape(-1).tolist()
        (placed,) = training_batches(objective, train, len(flat), flat)
        return cls(rows, name, placed)

    @property
    def originals(self) -> Tensor:
        """Return the input that moves, as it was, (K, M, …)."""
        values = self.placed.inputs[self.name]
        return values.reshape(*self.rows.shape, *values.shape[1:])

    @property
    def weights(self) -> Tensor:
        """Return w_i, (K, M) float64."""
        weights = self.placed.weights
        if weights is None:
            return torch.ones(self.rows.shape, dtype=torch.float64, device=self.placed.targets.device)
        return weights.to(torch.float64).view(self.rows.shape)

    @property
    def targets(self) -> Tensor:
        """Return y_i, (K, M, …)."""
        return self.placed.targets.reshape(*self.rows.shape, *self.placed.targets.shape[1:])

    def batch(self, at: Tensor, inputs: Tensor) -> Batch:
        """Return the rows of the attacks `at` (A,) with other inputs (A, M, …), as a placed batch of A · M rows."""
        M = self.rows.shape[1]
        places = (at[:, None] * M + torch.arange(M)).reshape(-1)
        there = places.to(inputs.device)
        placed = self.placed
        return Batch(
            {name: one[there] for name, one in placed.inputs.items()} | {self.name: inputs.flatten(0, 1)},
            placed.targets[there],
            None if placed.weights is None else placed.weights[there],
            placed.index[places],
        )
