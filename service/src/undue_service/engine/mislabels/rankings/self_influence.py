"""Rows by their influence on their own loss."""

from typing import ClassVar

import torch
from torch import Tensor

from .base import Fitted


class SelfInfluence:
    """score(i, i): by how much the loss of a row rises when it is removed (Koh & Liang 2017, section 5.4).

    A wrong label is learned from its own row alone, so without the row the model goes back to the right one.
    """

    name: ClassVar[str] = "self_influence"

    def score(self, fitted: Fitted) -> Tensor:
        """See Ranking."""
        found = fitted.self_influence()
        scores = torch.empty(len(found.scores), dtype=torch.float64)
        scores[torch.from_numpy(found.train.rows)] = torch.from_numpy(found.scores)
        return scores
