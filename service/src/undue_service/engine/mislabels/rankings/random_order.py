"""Rows in random order: what looking without a ranking finds."""

from typing import ClassVar

import torch
from torch import Tensor

from .base import Fitted


class RandomOrder:
    """A permutation by the seed: a share b of the rows holds about a share b of what is wrong."""

    name: ClassVar[str] = "random"

    def score(self, fitted: Fitted) -> Tensor:
        """See Ranking."""
        return torch.randperm(len(fitted.labels), generator=fitted.generator).to(torch.float64)
