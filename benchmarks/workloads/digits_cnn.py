"""CNN of 6,090 parameters on digits; truth: test losses after training on random halves."""

from torch import nn

from benchmarks.data import Split, digits
from benchmarks.training import Recipe

from .base import Workload
from .networks import RETRAINING_SEEDS, SUBSETS, retrained, trained

NAME = "cnn"
RECIPE = Recipe(epochs=60, batch_size=128, lr=1e-3, l2=1e-3)
SEEDS = 5


def architecture() -> nn.Module:
    """Return the untrained network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def data() -> Split:
    """Return the digits as images."""
    return digits(image=True)


WORKLOAD = Workload(
    name=NAME,
    title="CNN on digits: p = 6,090, 1,697 × 100",
    architecture=architecture,
    data=data,
    l2=RECIPE.l2,
    damping={"hessian": 9e-3, "gauss_newton": 9e-3, "ekfac": 0.0},
    models=lambda: trained(NAME, architecture, data, RECIPE, SEEDS),
    seeds=SEEDS,
    truth=lambda: retrained(NAME, architecture, data, RECIPE),
    reference=None,
    reference_is="",
    settings=f"{RECIPE.in_words()}; {SEEDS} models; truth: {SUBSETS} halves × {RETRAINING_SEEDS} seeds",
    kind="lds",
)
