"""The objectives of K linear heads, each over rows that are its own or weighted its own way.

R_k(Θ) = Σ_i w_ik ℓ(x̃_ik Θ + o_ik, y_ik) + ½ Σ l2 ∘ Θ², Θ (d, C), where w_ik is divided by the number of rows
already, and is 0 for a row that is none of k's.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from undue_service.engine.curvature.head import head_blocks
from undue_service.engine.losses import Loss, SquaredError

from .conjugate_gradients import Product
from .parts import Part, SeenRows

_GRAPH = 10
"""Numbers for each output of each row that one linearisation keeps."""


class HeadObjectives:
    """K objectives, as `Newton` minimises them."""

    def __init__(
        self,
        loss: Loss,
        l2: Tensor,
        seen: SeenRows,
        *,
        memory_bytes: int = 2**30,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind objectives.

        Args:
            loss: ℓ.
            l2: l2 · mask, (d, C).
            seen: their rows.
            memory_bytes: budget of what is kept of a linearisation, and of the intermediate values of a dense Hessian.
            told: called after every part of the rows.
        """
        self.loss = loss
        self.l2 = l2
        self._seen = seen
        self._memory = memory_bytes
        self._told = told

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def modulus(self) -> float:
        """Return μ for which R − μ/2 ‖Θ‖² is convex: with μ > 0 there is one minimiser, at most ‖∇R‖ / μ away."""
        return float(self.l2.min())

    @property
    def quadratic(self) -> bool:
        """Whether R is a quadratic of Θ."""
        return isinstance(self.loss, SquaredError)

    def evaluate(self, theta: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return R_k, (A,), and ∇R_k, (d, A, C), of the objectives `at` (A,) at Θ_k."""
        gradient = self.l2[:, None] * theta
        value = 0.5 * (gradient * theta).sum(dim=(0, 2))
        for part in self._seen.parts(at):
            f, costs = self._costs(part, theta)
            (residuals,) = torch.autograd.grad(costs.sum(), f)
            value = value + costs.detach().sum(dim=0)
            gradient = gradient + part.gather(residuals)
            self._told()
        return value, gradient

    def curvature(self, theta: Tensor, at: Tensor) -> Product:
        """Return the products with the Hessians of the objectives `at` (A,) at Θ_k."""
        taken = self._seen.rows * theta[0].numel() * theta.element_size() * _GRAPH
        kept = list(self._linearised(theta, at)) if taken <= self._memory else None

        def product(V: Tensor) -> Tensor:
            found = self.l2[:, None] * V
            for part, f, slopes in self._linearised(theta, at) if kept is None else kept:
                (curved,) = torch.autograd.grad(slopes, f, part.project(V), retain_graph=True)
                found = found + part.gather(curved)
                self._told()
            return found

        return product

    def largest_move(self, step: Tensor, at: Tensor) -> Tensor:
        """Return the largest change of an output, over the rows that each objective holds, for a step: (A,)."""
        largest = step.new_zeros(step.shape[1])
        for part in self._seen.parts(at):
            moved = part.project(step).abs().amax(dim=2) * part.weights.gt(0)
            largest = torch.maximum(largest, moved.amax(dim=0))
        return largest

    def dense(
        self, theta: Tensor, k: int = 0, features: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return the Hessian of one objective at Θ (d, C), as a matrix over coefficients (d, C) laid flat.

        Args:
            theta: Θ.
            k: which objective.
            features: numbers of those whose coefficients it is over, (d',); None means all.
            dtype: in which it is summed; None is that of Θ.
        """
        l2 = self.l2 if features is None else self.l2[features]
        d, C = l2.shape
        size = max(1, self._memory // (theta.element_size() * (4 * C * C + 2 * d * C)))
        dtype = dtype or theta.dtype

        def factors() -> Iterator[tuple[Tensor, Tensor]]:
            for part in self._seen.parts(torch.tensor([k], device=theta.device)):
                every = part.features, part.outputs(theta[:, None])[:, 0], part.targets, part.weights
                for x, f, y, w in zip(*(one.split(size) for one in every), strict=True):
                    S = self.loss.curvature(f, y) * w[:, :, None]
                    yield (x if features is None else x[:, features]).to(dtype), S.to(dtype)
                self._told()

        H = head_blocks(factors(), theta.new_zeros(C, d, C, d, dtype=dtype))
        H = H.permute(1, 0, 3, 2).reshape(d * C, d * C)
        H.diagonal().add_(l2.reshape(-1).to(H))
        return H

    def _linearised(self, theta: Tensor, at: Tensor) -> Iterator[tuple[Part, Tensor, Tensor]]:
        for part in self._seen.parts(at):
            f, costs = self._costs(part, theta)
            (residuals,) = torch.autograd.grad(costs.sum(), f, create_graph=True)
            yield part, f, residuals

    def _costs(self, part: Part, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, A, C) and w_ik ℓ_ik, (B, A)."""
        with torch.enable_grad():
            f = part.outputs(theta).requires_grad_()
            B, A, C = f.shape
            return f, self.loss.losses(f.reshape(-1, C), part.targets).view(B, A) * part.weights
