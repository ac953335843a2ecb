"""The objective without some rows, for several sets of rows at once.

R_k(Θ) = (1/n_k) Σ_{i ∉ S_k} w_i ℓ(x̃_i Θ + o_i, y_i) + ½ Σ l2 ∘ Θ², Θ (d, C): n_k = n stays, as `docs/scores.md` has it,
or it is the number of the rows that are kept.
K heads are (d, K, C), so that one product with the features serves them all.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from undue_service.engine.curvature.head import head_blocks
from undue_service.engine.losses import Loss, SquaredError
from undue_service.engine.objective import Objective

from .head_rows import HeadBlock, HeadRows, l2_of, repeated
from .training import Divisor

Product = Callable[[Tensor], Tensor]
"""V (d, K, C) → H_k V_k."""

_GRAPH = 10
"""Numbers for each output of each row that one linearisation keeps."""


class Removals:
    """K objectives over the same rows, each without some of them."""

    def __init__(
        self,
        objective: Objective,
        rows: HeadRows,
        without: Sequence[Sequence[int]],
        *,
        divisor: Divisor = "kept_n",
        memory_bytes: int = 2**30,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind objectives; `told` is called after every block of rows."""
        self.loss: Loss = objective.loss
        self.l2 = l2_of(objective)
        self._rows = rows
        self._told = told
        self._memory = memory_bytes
        self._kept = torch.ones(len(rows), len(without), dtype=torch.bool)
        for k, removed in enumerate(without):
            self._kept[torch.as_tensor(removed, dtype=torch.int64), k] = False
        self._kept = self._kept.to(self.l2.device)
        self._divisors = torch.full((len(without),), len(rows), dtype=self.l2.dtype, device=self.l2.device)
        if divisor == "subset":
            self._divisors = self._kept.sum(dim=0).to(self.l2).clamp(min=1)

    @property
    def modulus(self) -> float:
        """Return μ for which R − μ/2 ‖Θ‖² is convex: with μ > 0 there is one minimiser, at most ‖∇R‖ / μ away."""
        return float(self.l2.min())

    @property
    def quadratic(self) -> bool:
        """Whether R is a quadratic of Θ."""
        return isinstance(self.loss, SquaredError)

    def evaluate(self, theta: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return R_k, (K,), and ∇R_k, (d, K, C), of the objectives `at` (K,) at Θ_k."""
        gradient = self.l2[:, None] * theta
        value = 0.5 * (gradient * theta).sum(dim=(0, 2))
        for block in self._rows.blocks():
            f, costs = self._costs(block, theta, at)
            (residuals,) = torch.autograd.grad(costs.sum(), f)
            value = value + costs.detach().sum(dim=0)
            gradient = gradient + block.gather(residuals)
            self._told()
        return value, gradient

    def curvature(self, theta: Tensor, at: Tensor) -> Product:
        """Return the products with the Hessians of the objectives `at` (K,) at Θ_k."""
        taken = len(self._rows) * theta[0].numel() * theta.element_size() * _GRAPH
        kept = list(self._linearised(theta, at)) if taken <= self._memory else None

        def product(V: Tensor) -> Tensor:
            found = self.l2[:, None] * V
            for block, f, residuals in self._linearised(theta, at) if kept is None else kept:
                (curved,) = torch.autograd.grad(residuals, f, block.project(V), retain_graph=True)
                found = found + block.gather(curved)
                self._told()
            return found

        return product

    def largest_move(self, step: Tensor, at: Tensor) -> Tensor:
        """Return the largest change of an output, over the rows that each objective holds, for a step: (K,)."""
        largest = step.new_zeros(step.shape[1])
        for block in self._rows.blocks():
            moved = block.project(step).abs().amax(dim=2) * self._weights(block, at).gt(0)
            largest = torch.maximum(largest, moved.amax(dim=0))
        return largest

    def weight(self) -> Tensor:
        """Return Σ_{i ∉ S_k} w_i, (K,)."""
        every = torch.arange(self._kept.shape[1], device=self._kept.device)
        return sum(self._weights(block, every).sum(dim=0) for block in self._rows.blocks()) * self._divisors

    def dense(self, theta: Tensor, k: int = 0, features: Tensor | None = None) -> Tensor:
        """Return the Hessian of one objective at Θ (d, C), as a matrix over coefficients (d, C) laid flat.

        Args:
            theta: Θ.
            k: which objective.
            features: numbers of those whose coefficients it is over, (d',); None means all.
        """
        l2 = self.l2 if features is None else self.l2[features]
        d, C = l2.shape
        at = torch.tensor([k], device=theta.device)

        size = max(1, self._memory // (theta.element_size() * (4 * theta.shape[1] ** 2 + 2 * d * C)))

        def factors() -> Iterator[tuple[Tensor, Tensor]]:
            for block in self._rows.blocks():
                for part in block.parts(size):
                    S = self.loss.curvature(part.outputs(theta[:, None])[:, 0], part.targets)
                    x = part.features if features is None else part.features[:, features]
                    yield x, S * self._weights(part, at)[:, :, None]
                self._told()

        H = head_blocks(factors(), theta.new_zeros(C, d, C, d)).permute(1, 0, 3, 2).reshape(d * C, d * C)
        H.diagonal().add_(l2.reshape(-1))
        return H

    def _linearised(self, theta: Tensor, at: Tensor) -> Iterator[tuple[HeadBlock, Tensor, Tensor]]:
        for block in self._rows.blocks():
            f, costs = self._costs(block, theta, at)
            (residuals,) = torch.autograd.grad(costs.sum(), f, create_graph=True)
            yield block, f, residuals

    def _costs(self, block: HeadBlock, theta: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, K, C) and (w_i/n_k) ℓ_i, 0 for a removed row, (B, K)."""
        f = block.outputs(theta).requires_grad_()
        K, C = f.shape[1:]
        losses = self.loss.losses(f.view(-1, C), repeated(block.targets, K)).view(-1, K)
        return f, losses * self._weights(block, at)

    def _weights(self, block: HeadBlock, at: Tensor) -> Tensor:
        """Return w_i/n_k, 0 for a removed row, (B, K)."""
        kept = self._kept[block.index.to(self._kept.device)][:, at].to(block.features.dtype) / self._divisors[at]
        return kept if block.weights is None else kept * block.weights[:, None]
