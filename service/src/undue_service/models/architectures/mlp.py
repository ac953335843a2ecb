"""Fully connected networks."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from .activations import ACTIVATIONS
from .built import Built


def mlp(sizes: Sequence[int], activation: str) -> Built:
    """Linear, activation, Linear, …, Linear. Sizes of S numbers make S − 1 layers."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise(sizes)):
        if place:
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(before, after))
    return Built(nn.Sequential(*layers), {"input": torch.zeros(1, sizes[0])})
