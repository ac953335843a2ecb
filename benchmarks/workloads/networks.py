"""Networks trained by Adam, and their half-subset truth, computed once."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.caching import cached
from benchmarks.data import Split
from benchmarks.training import Recipe, losses, train

from .base import HalfSubsets, half_subsets

SUBSETS = 30
SUBSET_SEED = 1
RETRAINING_SEEDS = 2
FIRST_RETRAINING_SEED = 10_000
"""Models that are explained have seeds 0, 1, …; those of the truth share none with them."""


def trained(
    name: str,
    architecture: Callable[[], nn.Module],
    data: Callable[[], Split],
    recipe: Recipe,
    seeds: int,
    keep_epochs: tuple[int, ...] = (),
) -> Mapping[str, Tensor]:
    """Return the models to explain, name → (seeds, *shape)."""

    def compute() -> dict[str, Tensor]:
        split = data()
        return train(architecture, split.x, split.y, recipe, range(seeds), keep_epochs=keep_epochs)

    return cached(f"{name}-models", {**recipe.settings(), "seeds": seeds, "keep": list(keep_epochs)}, compute)


def retrained(
    name: str, architecture: Callable[[], nn.Module], data: Callable[[], Split], recipe: Recipe
) -> HalfSubsets:
    """Return test losses after training from scratch on each half subset, over seeds of their own."""

    def compute() -> dict[str, Tensor]:
        split = data()
        subsets = half_subsets(len(split.x), SUBSETS, SUBSET_SEED)
        rows = [subset.nonzero()[:, 0] for subset in subsets]
        found = []
        for repeat in range(RETRAINING_SEEDS):
            first = FIRST_RETRAINING_SEED + repeat * SUBSETS
            theta = train(architecture, split.x, split.y, recipe, range(first, first + SUBSETS), rows)
            found.append(losses(architecture, theta, split.test_x, split.test_y))
        return {"subsets": subsets, "losses": torch.stack(found)}

    settings = {**recipe.settings(), "subsets": SUBSETS, "seed": SUBSET_SEED, "retraining_seeds": RETRAINING_SEEDS}
    found = cached(f"{name}-subsets", settings, compute)
    return HalfSubsets(found["subsets"], found["losses"].double().mean(dim=0))
