"""How well predicted changes agree with measured ones."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr


@dataclass(frozen=True)
class Agreement:
    """Of two lists of changes."""

    pearson: float
    spearman: float
    slope: float
    """Of measured on predicted, through the origin: 1 where the size is right, more where predictions fall short."""

    @property
    def cells(self) -> tuple[str, str, str]:
        """Return the three, as a table shows them."""
        return f"{self.pearson:.4f}", f"{self.spearman:.4f}", f"{self.slope:.3f}"


def agreement(predicted: npt.NDArray[np.floating], measured: npt.NDArray[np.floating]) -> Agreement:
    """Compare changes, of any shape."""
    x, y = predicted.ravel().astype(np.float64), measured.ravel().astype(np.float64)
    return Agreement(
        float(np.corrcoef(x, y)[0, 1]), float(spearmanr(x, y).statistic), float(x @ y / max(x @ x, 1e-300))
    )


def drawn_and_largest(scores: npt.NDArray[np.floating], count: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Return as many training rows drawn at random from all, and those with the largest |score| (n,), largest first."""
    drawn = np.random.default_rng(seed).choice(len(scores), min(count, len(scores)), replace=False)
    largest = np.argsort(-np.abs(scores), kind="stable")[:count]
    return [int(row) for row in drawn], [int(row) for row in largest]
