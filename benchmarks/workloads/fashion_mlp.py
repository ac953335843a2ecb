"""MLP 784-256-128-10 on 10,000 rows of Fashion-MNIST: speed and memory at a size where they count."""

from torch import nn

from benchmarks.data import Split, fashion
from benchmarks.training import Recipe

from .base import Workload
from .networks import trained

NAME = "fashion"
ROWS, TEST_ROWS = 10_000, 100
RECIPE = Recipe(epochs=10, batch_size=128, lr=1e-3, l2=1e-3)


def architecture() -> nn.Module:
    """Return the untrained network, of 235,146 parameters."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def data() -> Split:
    """Return the first rows of Fashion-MNIST."""
    return fashion(ROWS, TEST_ROWS)


WORKLOAD = Workload(
    name=NAME,
    title="MLP 784-256-128-10 on Fashion-MNIST: p = 235,146, 10,000 × 100",
    architecture=architecture,
    data=data,
    l2=RECIPE.l2,
    damping={"hessian": 9e-3, "gauss_newton": 9e-3, "ekfac": 0.0},
    models=lambda: trained(NAME, architecture, data, RECIPE, 1),
    seeds=1,
    truth=None,
    reference=None,
    reference_is="",
    settings=RECIPE.in_words(),
    kind="speed",
)
