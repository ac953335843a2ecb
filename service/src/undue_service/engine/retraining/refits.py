"""The seam of retraining: what fits without some training rows make of some test rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason

from .training import Divisor


@dataclass(frozen=True)
class Refitted:
    """K fits, each without a set of training rows; averages over the seeds where there are several."""

    costs: NDArray[np.float64]
    """m_t at their ends, (K, m)."""
    gradient_norms: NDArray[np.float64]
    """‖∇R_k‖ at their ends, (K,); the largest of the seeds."""
    iterations: NDArray[np.int64]
    """Steps, (K,)."""
    matvecs: int = 0
    """Products of a Hessian with one vector."""


class Refits(Protocol):
    """Fits of one model on subsets of its training rows, measured on the same m test rows."""

    distance: float
    """From the registered weights to those of the fit on all rows, once that is made."""
    matvecs: int
    """Products of a Hessian with one vector so far."""
    starts_warm: bool
    """Whether where a fit ends depends on the registered weights, which have seen all rows."""

    def baseline(self) -> NDArray[np.float64]:
        """Return the costs (m,) of the fit on all rows that every change is measured from."""

    def without(self, sets: Sequence[Sequence[int]], divisor: Divisor = "kept_n") -> Refitted:
        """Fit again without each of some sets of training rows."""

    def recipe(self, divisor: Divisor = "kept_n") -> str:
        """Return in words what was done."""

    @property
    def solver(self) -> tuple[str, str]:
        """Return what fits, and how it ended."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the reader should know; complete after the last fit."""


def kept_rows(sets: Sequence[Sequence[int]], n: int) -> Tensor:
    """Return which rows each fit keeps, (K, n) bool."""
    kept = torch.ones(len(sets), n, dtype=torch.bool)
    for k, removed in enumerate(sets):
        kept[k, torch.as_tensor(removed, dtype=torch.int64)] = False
    return kept


def named(rows: Sequence[int]) -> str:
    """Return some rows in words."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    listed = ", ".join(map(str, rows[:5]))
    return f"rows {listed}" + (f" and {len(rows) - 5:,} more" if len(rows) > 5 else "")


def check_costs(costs: Tensor, index: Tensor, measurement: str) -> None:
    """Raise FailedPrecondition (NON_FINITE_RESULT) where a cost (B, K) of the test rows `index` (B,) is not finite."""
    bad = ~torch.isfinite(costs).all(dim=1)
    if bool(bad.any()):
        row = int(index[int(bad.nonzero()[0, 0])])
        text = f"the {measurement} of test row {row} is not a finite number; check that row"
        raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"row": str(row)})
