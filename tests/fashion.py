"""Fashion-MNIST for the tests; a test that needs it is skipped where it cannot be had."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from examples.sources import SourceMissing, fashion_mnist
from examples.sources.images import FASHION


def load(split: Literal["train", "test"], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of a split, (rows, 1, 28, 28) float32 in [0, 1], and their classes, (rows,) int64."""
    try:
        images = fashion_mnist(split)[:rows]
    except SourceMissing as missing:
        pytest.skip(str(missing))
    return images.channels(), images.labels


def file(name: str, folder: Path) -> Path:
    """Write a file of the package, as it comes, into a folder and return its path."""
    try:
        content = FASHION.member(name)
    except SourceMissing as missing:
        pytest.skip(str(missing))
    path = folder / name
    path.write_bytes(content)
    return path
