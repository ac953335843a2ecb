"""Many small networks trained at once: the same Adam steps, in lock-step over a leading axis of models."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Recipe:
    """How a model was trained. The objective is mean cross-entropy + l2/2 · ‖θ‖² over all parameters."""

    epochs: int
    batch_size: int
    lr: float
    l2: float
    optimizer: str = "adam"
    """Constant learning rate; an incomplete last batch of an epoch is dropped."""

    def settings(self) -> dict[str, Any]:
        """Return what a cache key is made of."""
        return asdict(self)

    def in_words(self) -> str:
        """Return the recipe for a reader."""
        return (
            f"Adam, learning rate {self.lr:g}, {self.epochs} epochs, batches of {self.batch_size}, l2 {self.l2:g} on "
            "every parameter"
        )


def train(
    architecture: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    seeds: Sequence[int],
    rows: Sequence[Tensor] | None = None,
    keep_epochs: Sequence[int] = (),
) -> dict[str, Tensor]:
    """Train one model a seed; a seed decides its initial weights and its order of rows.

    Args:
        architecture: makes the untrained module.
        x: (n, …).
        y: (n,).
        recipe: the same for all.
        seeds: (M,).
        rows: the rows that each may see, of equal number; None is all.
        keep_epochs: after which epochs the weights are kept too.

    Returns:
        name → (M, *shape), and "epoch{e}/{name}" for each kept epoch e.
    """
    modules = []
    for seed in seeds:
        torch.manual_seed(seed)
        modules.append(architecture())
    stacked, _ = stack_module_state(modules)
    theta = {name: tensor.detach().clone() for name, tensor in stacked.items()}
    first = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
    seen = [torch.arange(len(x)) for _ in seeds] if rows is None else list(rows)
    generators = [torch.Generator().manual_seed(1_000_000 + seed) for seed in seeds]

    def risk(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = functional_call(modules[0], parameters, inputs)
        squares = sum(tensor.square().sum() for tensor in parameters.values())
        return nn.functional.cross_entropy(outputs, targets) + 0.5 * recipe.l2 * squares

    gradients_of = vmap(grad(risk))
    kept: dict[str, Tensor] = {}
    step, size = 0, len(seen[0])
    for epoch in range(1, recipe.epochs + 1):
        orders = torch.stack(
            [at[torch.randperm(size, generator=generator)] for at, generator in zip(seen, generators, strict=True)]
        )
        for start in range(0, size - recipe.batch_size + 1, recipe.batch_size):
            batch = orders[:, start : start + recipe.batch_size]
            gradients = gradients_of(theta, x[batch], y[batch])
            step += 1
            for name, parameter in theta.items():
                g = gradients[name]
                first[name].lerp_(g, 1 - BETA_1)
                second[name].mul_(BETA_2).addcmul_(g, g, value=1 - BETA_2)
                scale = (second[name] / (1 - BETA_2**step)).sqrt_().add_(EPSILON)
                parameter.addcdiv_(first[name], scale, value=-recipe.lr / (1 - BETA_1**step))
        if epoch in keep_epochs:
            kept |= {f"epoch{epoch}/{name}": tensor.clone() for name, tensor in theta.items()}
    return theta | kept


def losses(architecture: Callable[[], nn.Module], theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each row under each model, (M, rows)."""
    module = architecture().eval()

    def one(parameters: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(module, parameters, (x,)), y, reduction="none")

    with torch.no_grad():
        return vmap(one)(theta)
