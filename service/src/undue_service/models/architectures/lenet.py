"""LeNet-5 (LeCun et al. 1998), with every map of the second convolution connected to every one of the first."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .activations import ACTIVATIONS
from .built import Built

_POOLING = {"max": functional.max_pool2d, "average": functional.avg_pool2d}


class LeNet(nn.Module):
    """conv 5×5 → pool → conv 5×5 → pool → 120 → 84 → classes."""

    def __init__(self, channels: int, size: int, classes: int, padding: int, activation: str, pooling: str) -> None:
        super().__init__()
        side = ((size + 2 * padding - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        self.activation = ACTIVATIONS[activation]()
        self._pool = _POOLING[pooling]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the input's name
        """Return the outputs, (rows, classes)."""
        hidden = self._pool(self.activation(self.conv1(input)), 2)
        hidden = self._pool(self.activation(self.conv2(hidden)), 2).flatten(1)
        hidden = self.activation(self.fc2(self.activation(self.fc1(hidden))))
        return self.fc3(hidden)


def lenet(channels: int, size: int, **options: object) -> Built:
    """Return LeNet for images of `size` × `size`."""
    return Built(LeNet(channels, size, **options), {"input": torch.zeros(1, channels, size, size)})
