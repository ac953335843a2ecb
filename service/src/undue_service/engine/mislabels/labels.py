"""Labels of training rows: reading them, changing some at random, and rows that have others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.mislabels import KnownRows
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, training_batches
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.edits import Edit

_FLIPS = 0
"""Sets what is drawn here apart from what else is drawn by the same seed."""


class Relabelled:
    """Rows with other labels."""

    def __init__(self, rows: Rows, labels: Tensor) -> None:
        """Give the rows labels (n,) int64."""
        self._rows = rows
        self._labels = labels

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the rows in order, at most `size` at a time; only `rows`, in that order, if given."""
        for batch in self._rows.batches(size, rows):
            yield replace(batch, targets=self._labels[batch.index])


@dataclass(frozen=True)
class Mistakes:
    """Rows with wrong labels, and what the training data is once some of them were found."""

    wrong: NDArray[np.int64]
    """(w,) rows, ascending."""
    labels: Tensor
    """(n,) int64, with the mistakes."""
    right: NDArray[np.int64] | None
    """(w,) right labels; None where a row that is found is left out."""
    planted: bool
    """Whether the training data has the right labels, and the mistakes are edits of it; else the other way round."""

    def after(self, found: NDArray[np.bool_]) -> Edit:
        """Return what the training data becomes once the wrong rows of a mask (w,) have their right labels back."""
        if self.planted:
            return self._labelled(self.wrong[~found], self.labels.numpy()[self.wrong[~found]])
        if self.right is None:
            return Edit(without=tuple(self.wrong[found].tolist()))
        return self._labelled(self.wrong[found], self.right[found])

    def without(self, rows: NDArray[np.int64]) -> Edit:
        """Return what the training data is with all mistakes, and without some rows."""
        if not self.planted:
            return Edit(without=tuple(rows.tolist()))
        stays = self.wrong[~np.isin(self.wrong, rows)]
        return replace(self._labelled(stays, self.labels.numpy()[stays]), without=tuple(rows.tolist()))

    @staticmethod
    def _labelled(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Edit:
        return Edit(relabelled=tuple(rows.tolist()), targets=torch.from_numpy(labels.copy()) if len(rows) else None)


def labels_of(objective: Objective, train: Rows, *, memory_bytes: int) -> Tensor:
    """Return the label of each training row, (n,) int64.

    Raises:
        InvalidArgument: INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING; OBJECTIVE_MISMATCH for a regression.
    """
    if not objective.loss.explains_label:
        text = (
            "a regression has no labels that could be another class's: look at self-influence (client.self_influence)"
        )
        raise InvalidArgument.at("model", text, Reason.OBJECTIVE_MISMATCH)
    size = block_rows(objective, memory_bytes)
    return torch.cat([batch.targets.cpu() for batch in training_batches(objective, train, size)])


def classes_of(objective: Objective) -> int:
    """Return how many classes labels are of."""
    return max(2, objective.outputs_per_row)


def flipped(labels: Tensor, classes: int, share: float, seed: int) -> Mistakes:
    """Return mistakes in a share of the rows, at least one: each gets another class, all equally likely."""
    rng = np.random.default_rng([_FLIPS, seed])
    n = len(labels)
    wrong = np.sort(rng.choice(n, max(1, round(share * n)), replace=False))
    right = labels.numpy()[wrong]
    given = labels.clone()
    given[torch.from_numpy(wrong)] = torch.from_numpy((right + rng.integers(1, classes, len(wrong))) % classes)
    return Mistakes(wrong, given, right, planted=True)


def known_mistakes(labels: Tensor, classes: int, known: KnownRows) -> Mistakes:
    """Return mistakes that the labels are known to have.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; TARGET_MISMATCH for a label that there is not, or that the row has already.
    """
    n = len(labels)
    for row in known.rows:
        if not 0 <= row < n:
            text = f"there is no training row {row}; there are rows 0…{n - 1}"
            raise InvalidArgument.at("known.rows", text, Reason.ROW_OUT_OF_RANGE)
    for row, label in zip(known.rows, known.labels, strict=bool(known.labels)):
        if not 0 <= label < classes:
            text = f"row {row} cannot have the label {label}: a class label lies in 0…{classes - 1}"
            raise InvalidArgument.at("known.labels", text, Reason.TARGET_MISMATCH)
        if label == int(labels[row]):
            text = f"row {row} has the label {label} already, so it is not wrong: leave it out"
            raise InvalidArgument.at("known.labels", text, Reason.TARGET_MISMATCH)
    order = np.argsort(known.rows)
    right = np.array(known.labels, dtype=np.int64)[order] if known.labels else None
    return Mistakes(np.array(known.rows, dtype=np.int64)[order], labels, right, planted=False)
