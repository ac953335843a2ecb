"""The seam of fits: θ of a model fitted to edited training data, and what it makes of the rows."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.engine.data import Rows
from undue_service.engine.retraining.edits import Edit
from undue_service.engine.retraining.training import Divisor


class Fits(Protocol):
    """Fits of one model to edits of its training data."""

    solver: tuple[str, str]
    """What fits, and how it ended."""

    def fit(self, edits: Sequence[Edit], *, near: Tensor | None = None, divisor: Divisor = "kept_n") -> Tensor:
        """Return θ of each edit, (K, P); `near` (P,) is that of data much like it, None where there is none."""

    def outputs(self, theta: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Return f (B, C) of training rows at θ (P,); None means all of them."""

    def accuracies(self, thetas: Tensor) -> Tensor:
        """Return the share of the test rows whose label is predicted, (K,) float64, at θ (K, P)."""

    def recipe(self) -> str:
        """Return in words how a fit is made."""


def check_labelled(test: Rows) -> None:
    """Hold test rows against what accuracy needs.

    Raises:
        InvalidArgument: TARGETS_MISSING.
    """
    if next(iter(test.batches(1))).targets is None:
        text = "accuracy is measured on test rows with labels, and these have none: register them with targets"
        raise InvalidArgument.at("test", text, Reason.TARGETS_MISSING)
