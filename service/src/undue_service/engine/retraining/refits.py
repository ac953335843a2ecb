"""The seam of retraining: what fits to edited training rows make of some test rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason

from .edits import Edit
from .training import Divisor


@dataclass(frozen=True)
class Refitted:
    """K fits, each after an edit of the training rows; averages over the seeds where there are several."""

    costs: NDArray[np.float64]
    """m_t at their ends, (K, m)."""
    gradient_norms: NDArray[np.float64]
    """‖∇R_k‖ at their ends, (K,); the largest of the seeds."""
    iterations: NDArray[np.int64]
    """Steps, (K,)."""
    matvecs: int = 0
    """Products of a Hessian with one vector."""
    wrong: NDArray[np.float32] | None = None
    """Share of the seeds at whose end the predicted label is not the one explained, (K, m); None of a regression."""


class Refits(Protocol):
    """Fits of one model to edits of its training rows, measured on the same m test rows."""

    distance: float
    """From the registered weights to those of the fit on all rows, once that is made."""
    matvecs: int
    """Products of a Hessian with one vector so far."""
    starts_warm: bool
    """Whether where a fit ends depends on the registered weights, which have seen all rows."""
    wrong: NDArray[np.float32] | None
    """As `Refitted.wrong`, (m,), of the fit on all rows, once that is made."""

    def baseline(self) -> NDArray[np.float64]:
        """Return the costs (m,) of the fit on all rows that every change is measured from."""

    def after(
        self, edits: Sequence[Edit], divisor: Divisor = "kept_n", fields: Sequence[str] | None = None
    ) -> Refitted:
        """Fit again after each of some edits that `check_edits` has passed; `fields` are what errors call them."""

    def recipe(self, divisor: Divisor = "kept_n") -> str:
        """Return in words what was done."""

    @property
    def solver(self) -> tuple[str, str]:
        """Return what fits, and how it ended."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the reader should know; complete after the last fit."""


def fields_of(edits: Sequence[Edit], fields: Sequence[str] | None) -> list[str]:
    """Return what errors call each edit."""
    return [f"without[{k}]" for k in range(len(edits))] if fields is None else list(fields)


def check_costs(costs: Tensor, index: Tensor, measurement: str) -> None:
    """Raise FailedPrecondition (NON_FINITE_RESULT) where a cost (B, K) of the test rows `index` (B,) is not finite."""
    bad = ~torch.isfinite(costs).all(dim=1)
    if bool(bad.any()):
        row = int(index[int(bad.nonzero()[0, 0])])
        text = f"the {measurement} of test row {row} is not a finite number; check that row"
        raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"row": str(row)})
