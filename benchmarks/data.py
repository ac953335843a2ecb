"""The real data of the workloads: digits from scikit-learn, Fashion-MNIST from its Debian package."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from examples.sources import fashion_mnist


@dataclass(frozen=True)
class Split:
    """Training and test rows, inputs in [0, 1] as float32."""

    x: Tensor
    """(n, …)."""
    y: Tensor
    """(n,) int64."""
    test_x: Tensor
    """(m, …)."""
    test_y: Tensor
    """(m,) int64."""


def digits(image: bool = False) -> Split:
    """Return scikit-learn's 1,797 digits: 100 to explain, 1,697 to train on; (64,) a row, or (1, 8, 8)."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.tensor(data.data[order] / 16, dtype=torch.float32)
    y = torch.tensor(data.target[order], dtype=torch.int64)
    if image:
        x = x.reshape(-1, 1, 8, 8)
    return Split(x[100:], y[100:], x[:100], y[:100])


def fashion(n: int, m: int) -> Split:
    """Return the first n training and m test images of Fashion-MNIST, (784,) each."""
    return Split(*_first("train", n), *_first("test", m))


def _first(split: Literal["train", "test"], rows: int) -> tuple[Tensor, Tensor]:
    images = fashion_mnist(split)[:rows]
    return torch.from_numpy(images.flat()), torch.from_numpy(images.labels)
