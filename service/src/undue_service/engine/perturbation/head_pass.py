"""Perturbed rows through what lies below a linear head, and I_pert back to them.

With x̃ and f what the head sees of a row, z = x̃ Θ + o, o = f − x̃ Θ̂ and r = ∂ℓ/∂z, the gradient of the row is r ⊗ x̃, so
that s · ∇_θ ℓ = Σ_c r_c (x̃ S)_c for S (d, C): its derivatives in x̃ and f are written down in float64, and one ordinary
backward pass through the model, in its own precision, carries them to the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.data import Batch
from undue_service.engine.heads.rows import laid_out, parted
from undue_service.engine.losses import Loss
from undue_service.engine.objective import Objective

from .reach import reached


@dataclass(frozen=True)
class _Live:
    """Some rows of a pass; without a graph x holds their inputs and the rest is made again."""

    batch: Batch
    x: Tensor
    features: Tensor
    f: Tensor


class HeadPass:
    """B rows as a head sees them, with the way back to their inputs."""

    def __init__(self, objective: Objective, batch: Batch, name: str, size: int, *, keep: bool) -> None:
        """Run the model up to its head.

        Args:
            objective: has a linear head.
            batch: placed rows.
            name: of the input that moves.
            size: rows that pass at once.
            keep: whether the graph of all rows is kept for the way back; else each part runs again then.
        """
        self._objective = objective
        self._name = name
        self._keeps = keep
        self._parts = [self._forward(batch[at : at + size], keep) for at in range(0, len(batch.index), size)]
        self.rows = len(batch.index)

    def seen(self) -> tuple[Tensor, Tensor]:
        """Return x̃ (B, d) and o (B, C) in float64."""
        seen = ((part.features.detach(), part.f.detach()) for part in self._parts)
        features, offsets = zip(*(parted(self._objective, *one, torch.float64) for one in seen), strict=True)
        return torch.cat(features), torch.cat(offsets)

    def influence(self, theta: Tensor, S: Tensor, heads: Tensor) -> Tensor:
        """Return I_pert of all rows, (B, …) of the input's shape.

        Args:
            theta: Θ of A heads, (d, A, C) float64.
            S: s_T of each, (d, A, C) float64.
            heads: of which each row is, (B,) int64; −1 for a row of none, whose I_pert is 0.
        """
        found, first = [], 0
        for part in self._parts:
            own = heads[first : first + len(part.x)]
            first += len(part.x)
            found.append(torch.zeros_like(part.x) if bool((own < 0).all()) else self._back(part, theta, S, own))
        return torch.cat(found)

    def _back(self, part: _Live, theta: Tensor, S: Tensor, heads: Tensor, again: bool = False) -> Tensor:
        live = part if self._keeps else self._forward(part.batch, True)
        along = cotangents(self._objective, live.features, live.f, part.batch.targets, theta, S, heads)
        outputs = [live.features, live.f]
        pairs = [(out, c.to(out.dtype)) for out, c in zip(outputs, along, strict=True) if out.requires_grad]
        gradient = None
        if pairs:
            roots, seeds = zip(*pairs, strict=True)
            (gradient,) = torch.autograd.grad(roots, live.x, seeds, allow_unused=True, retain_graph=again)
        return reached(gradient, self._name)

    def each(self, theta: Tensor, directions: Sequence[Tensor]) -> list[Tensor]:
        """Return I_pert of all rows for one head (d, 1, C) and each of several directions (d, 1, C)."""
        heads = torch.zeros(self.rows, dtype=torch.int64)
        found = []
        for S in directions:
            first, parts = 0, []
            for part in self._parts:
                own = heads[first : first + len(part.x)]
                first += len(part.x)
                parts.append(self._back(part, theta, S, own, again=True))
            found.append(torch.cat(parts))
        return found

    def _forward(self, batch: Batch, graph: bool) -> _Live:
        x = laid_out(batch.inputs[self._name].detach())
        with torch.set_grad_enabled(graph):
            x = x.requires_grad_() if graph else x
            features, f = self._objective.head.evaluate({**batch.inputs, self._name: x})
        return _Live(batch, x, features, f)


def cotangents(
    objective: Objective, features: Tensor, f: Tensor, targets: Tensor, theta: Tensor, S: Tensor, heads: Tensor
) -> tuple[Tensor, Tensor]:
    """Return −∂(s · ∇_θ ℓ)/∂x̃ (B, d) and −∂(s · ∇_θ ℓ)/∂f (B, C), in float64; arguments as of `HeadPass.influence`."""
    with torch.enable_grad():
        features, f = (one.detach().to(torch.float64).requires_grad_() for one in (features, f))
        registered = objective.head.from_theta(objective.theta).to(torch.float64)
        own, along = (one[:, heads.clamp(min=0).to(one.device)].transpose(0, 1) for one in (theta, S))  # (B, d, C)
        z = torch.bmm(features[:, None], own)[:, 0] + f - features @ registered.T
        r = residuals(objective.loss, z, targets)
        value = (r * torch.bmm(features[:, None], along)[:, 0]).sum(dim=1)
        value = value * (heads >= 0).to(value.device)
        dx, df = torch.autograd.grad(value.sum(), (features, f))
    return -dx, -df


def residuals(loss: Loss, z: Tensor, targets: Tensor) -> Tensor:
    """Return r = ∂ℓ/∂z, (B, C), differentiable in z."""
    y = targets.to(z.dtype) if targets.is_floating_point() else targets
    (r,) = torch.autograd.grad(loss.losses(z, y).sum(), z, create_graph=True)
    return r
