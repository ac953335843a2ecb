"""What linear heads make of some test rows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.engine.data import Rows
from undue_service.engine.heads.block import repeated
from undue_service.engine.heads.rows import HeadRows
from undue_service.engine.measurements import measure
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .refits import check_costs


class HeadCosts:
    """Costs m_t of m test rows, which below the head run once, as far as memory allows."""

    def __init__(
        self,
        objective: Objective,
        test: Rows,
        rows: Sequence[int],
        measurement: str,
        *,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind rows of a data set to what is measured of them; nothing is computed yet."""
        self._loss = objective.loss
        self._measurement = measurement
        self._tests = HeadRows(objective, test, rows, explained=True, memory_bytes=memory_bytes, progress=progress)

    def __len__(self) -> int:
        return len(self._tests)

    @property
    def largest_block(self) -> int:
        """Return the most rows that are measured at once."""
        return self._tests.largest_block

    def of(self, theta: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """Return m_t of K heads Θ (d, K, C), (K, m), and where their predicted labels are wrong, of a classification.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT.
        """
        K, C = theta.shape[1:]
        parts, wrong = [], []
        for block in self._tests.blocks():
            f = block.outputs(theta).reshape(-1, C)
            y = None if block.targets is None else repeated(block.targets, K)
            costs = measure(self._measurement, self._loss, f, y).view(-1, K)
            check_costs(costs, block.index, self._measurement)
            parts.append(costs)
            wrong += [(self._loss.predictions(f) != y).view(-1, K)] if self._loss.explains_label else []
        mistaken = torch.cat(wrong).T.to("cpu", torch.float32).numpy() if wrong else None
        return torch.cat(parts).T.to("cpu", torch.float64).numpy(), mistaken
