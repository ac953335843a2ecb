"""Rows by confident learning.

Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, section 3.
"""

from typing import ClassVar

import torch
from torch import Tensor

from .base import Fitted, own_margin

_ROUNDING = 1e-9
"""By which a mean of equal probabilities may exceed them."""


class ConfidentLearning:
    """Off the diagonal of the confident joint first, then all others, each by normalised margin.

    With out-of-sample probabilities p̂ (n, classes) and given labels ỹ, t_j = mean of p̂_j over the rows with ỹ = j is
    the model's usual confidence in a class. A row is counted for the class argmax_j p̂_j among those with p̂_j ≥ t_j;
    where that is another one than ỹ, the row is a label error (equation 2). Both parts are ordered by
    (1 + max_{c≠ỹ} p̂_c − p̂_ỹ) / 2, in [0, 1].
    """

    name: ClassVar[str] = "confident_learning"

    def score(self, fitted: Fitted) -> Tensor:
        """See Ranking."""
        p = fitted.out_of_sample()
        return label_errors(p, fitted.labels).to(p.dtype) + (1 - own_margin(p, fitted.labels)) / 2


def confident_thresholds(p: Tensor, labels: Tensor) -> Tensor:
    """Return t, (classes,), of probabilities (n, classes); ∞ for a class that no row is labelled with."""
    own = torch.nn.functional.one_hot(labels, p.shape[1]).to(p.dtype)
    counts = own.sum(dim=0)
    return torch.where(counts > 0, (own * p).sum(dim=0) / counts.clamp(min=1), torch.inf)


def label_errors(p: Tensor, labels: Tensor) -> Tensor:
    """Return which rows lie off the diagonal of the confident joint, (n,) bool."""
    confident = p >= confident_thresholds(p, labels) - _ROUNDING
    guess = p.masked_fill(~confident, -torch.inf).argmax(dim=1)
    return confident.any(dim=1) & (guess != labels)
