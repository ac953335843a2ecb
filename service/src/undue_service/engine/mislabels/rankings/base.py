"""The seam of rankings: from a model that was fitted to some labels, how wrong each of these looks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from undue_service.engine.attribution import SelfAttribution
from undue_service.engine.losses import Loss


@dataclass(frozen=True)
class Fitted:
    """A model that was fitted to labels of which some may be wrong, and what else rankings look at.

    What takes fits or passes of its own is a function, called where a ranking needs it.
    """

    loss: Loss
    outputs: Tensor
    """f of each training row, (n, C)."""
    labels: Tensor
    """That the model was fitted to, (n,) int64."""
    generator: torch.Generator
    """Of whatever a ranking draws."""
    self_influence: Callable[[], SelfAttribution]
    """Every training row by its influence on its own loss."""
    out_of_sample: Callable[[], Tensor]
    """Probabilities of each row's classes by a model that was fitted without it, (n, classes)."""


class Ranking(Protocol):
    """One way to look for mislabelled rows."""

    name: str

    def score(self, fitted: Fitted) -> Tensor:
        """Return how wrong each row's label looks, (n,); the most suspicious rows have the largest scores."""


def ranked(scores: Tensor) -> Tensor:
    """Return the rows in the order in which they are looked at, (n,) int64; ties by the smaller row number."""
    return torch.argsort(scores.to("cpu", torch.float64), descending=True, stable=True)


def class_scores(f: Tensor) -> Tensor:
    """Return a number for each class, the largest for the predicted one, (B, classes), of outputs f (B, C)."""
    return torch.cat([torch.zeros_like(f), f], dim=1) if f.shape[1] == 1 else f


def probabilities(f: Tensor) -> Tensor:
    """Return the probability of each class, (B, classes), of outputs f (B, C): σ of one logit, else the softmax.

    A hinge has no probabilities; σ of its score orders rows alike and lies at ½ where the class changes.
    """
    return torch.softmax(class_scores(f), dim=1)


def own_margin(scores: Tensor, labels: Tensor) -> Tensor:
    """Return s_y − max_{c≠y} s_c, (B,), of scores (B, classes)."""
    own = scores.gather(1, labels[:, None])[:, 0]
    labelled = torch.arange(scores.shape[1], device=scores.device) == labels[:, None]
    return own - scores.masked_fill(labelled, -torch.inf).amax(dim=1)
