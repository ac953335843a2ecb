"""Per-example gradients by vmap(grad), for peers that leave them to their user."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


def loss_gradients(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the flat gradient of each row's cross-entropy, (B, P), in the order of `module.parameters()`."""
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def loss(theta: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(module, theta, row[None]), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    return torch.cat([found[name].flatten(1) for name in parameters], dim=1)


def rows_at_once(module: nn.Module, megabytes: int = 256) -> int:
    """Return how many float32 gradients fit."""
    return max(1, megabytes * 2**20 // (4 * sum(p.numel() for p in module.parameters())))
