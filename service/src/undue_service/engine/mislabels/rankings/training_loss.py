"""Rows by their training loss."""

from typing import ClassVar

from torch import Tensor

from .base import Fitted


class TrainingLoss:
    """ℓ_i at the fit: what the model could not learn comes first."""

    name: ClassVar[str] = "loss"

    def score(self, fitted: Fitted) -> Tensor:
        """See Ranking."""
        return fitted.loss.losses(fitted.outputs, fitted.labels)
