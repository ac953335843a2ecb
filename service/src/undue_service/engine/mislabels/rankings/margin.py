"""Rows by their margin."""

from typing import ClassVar

from torch import Tensor

from .base import Fitted, class_scores, own_margin


class Margin:
    """max_{c≠y} f_c − f_y at the fit, of logits; of two classes the same order as the loss."""

    name: ClassVar[str] = "margin"

    def score(self, fitted: Fitted) -> Tensor:
        """See Ranking."""
        return -own_margin(class_scores(fitted.outputs), fitted.labels)
