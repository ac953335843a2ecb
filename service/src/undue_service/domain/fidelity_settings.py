"""How scores are held against retraining, by a job of its own or beside scores."""

from dataclasses import dataclass
from typing import Literal

from .choices import Start


@dataclass(frozen=True, slots=True)
class FidelitySettings:
    """How scores are held against retraining.

    "loo": leave-one-out on rows at random and on rows from strata of the score, from the same start with the same
    recipe. "lds": the linear datamodelling score (Park et al. 2023) over random subsets.
    """

    protocol: Literal["loo", "lds"] = "loo"
    samples: int = 50
    """loo: training rows drawn at random, and as many again over the strata. lds: subsets."""
    strata: int = 5
    """loo: quantiles of the score's size, averaged over the test rows, from each of which equally many are drawn."""
    share: float = 0.5
    """lds: of the training rows in a subset."""
    seeds: int = 1
    """Retrainings of each, averaged."""
    start: Start | None = None
    """None: cold where the recipe has an initialiser, else warm; a linear head is always fitted to its minimum."""
    bootstrap: int = 1000
    """Resamples behind each interval of 95 %."""
    seed: int = 0
