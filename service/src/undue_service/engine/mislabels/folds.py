"""Probabilities of training rows by models that have not seen them."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.engine.retraining.edits import Edit

from .fits import Fits
from .rankings.base import probabilities

_FOLDS = 1
"""Sets what is drawn here apart from what else is drawn by the same seed."""


def stratified_folds(labels: Tensor, folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Return disjoint sets of rows, ascending, that hold nearly equally many rows of each label; by seed.

    There are as many as asked for, or as there are rows.
    """
    n = len(labels)
    shuffled = np.random.default_rng([_FOLDS, seed]).permutation(n)
    by_label = shuffled[np.argsort(labels.numpy()[shuffled], kind="stable")]
    return [np.sort(by_label[first::folds]) for first in range(min(folds, n))]


def out_of_sample(
    fits: Fits, labels: Tensor, without: Callable[[NDArray[np.int64]], Edit], near: Tensor, *, folds: int, seed: int
) -> Tensor:
    """Return each row's probabilities by the model that was trained on the other folds, (n, classes).

    Args:
        fits: of the model.
        labels: that decide the folds, (n,).
        without: the training data without some rows.
        near: θ of the fit on all rows, (P,).
        folds: how many.
        seed: of the folds.
    """
    held = stratified_folds(labels, folds, seed)
    thetas = fits.fit([without(rows) for rows in held], near=near, divisor="subset")
    parts = [probabilities(fits.outputs(theta, rows.tolist())) for theta, rows in zip(thetas, held, strict=True)]
    found = parts[0].new_empty(len(labels), parts[0].shape[1])
    for rows, part in zip(held, parts, strict=True):
        found[torch.from_numpy(rows)] = part
    return found
