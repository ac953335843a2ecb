"""MLP 64-256-128-10 on digits; truth: test losses after training on random halves."""

from torch import nn

from benchmarks.data import digits
from benchmarks.training import Recipe

from .base import Workload
from .networks import RETRAINING_SEEDS, SUBSETS, retrained, trained

NAME = "mlp"
RECIPE = Recipe(epochs=40, batch_size=128, lr=1e-3, l2=1e-3)
SEEDS = 5
TRAJECTORY = (8, 16, 24, 32, 40)


def architecture() -> nn.Module:
    """Return the untrained network, of 50,826 parameters."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


WORKLOAD = Workload(
    name=NAME,
    title="MLP 64-256-128-10 on digits: p = 50,826, 1,697 × 100",
    architecture=architecture,
    data=digits,
    l2=RECIPE.l2,
    damping={"hessian": 9e-3, "gauss_newton": 9e-3, "ekfac": 0.0},
    models=lambda: trained(NAME, architecture, digits, RECIPE, SEEDS, TRAJECTORY),
    seeds=SEEDS,
    truth=lambda: retrained(NAME, architecture, digits, RECIPE),
    reference=None,
    reference_is="",
    settings=f"{RECIPE.in_words()}; {SEEDS} models; truth: {SUBSETS} halves × {RETRAINING_SEEDS} seeds",
    kind="lds",
    trajectory_epochs=TRAJECTORY,
)
