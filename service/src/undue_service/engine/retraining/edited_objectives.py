"""The objective under edits of its rows, for several edits at once.

R_k(Θ) = (1/n_k) Σ_i w_ik ℓ(x̃_i Θ + o_i, y_ik) + ½ Σ l2 ∘ Θ², Θ (d, C), over the rows and those that replace some, with
w_ik = 0 for a row that is left out: n_k = n stays, as `docs/scores.md` has it, or it is the number of the rows that are
kept.
K heads are (d, K, C), so that one product with the features serves them all.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from undue_service.engine.curvature.head import head_blocks
from undue_service.engine.losses import Loss, SquaredError
from undue_service.engine.objective import Objective

from .head_edits import HeadEdits
from .head_rows import HeadBlock, l2_of, repeated
from .residuals import residuals
from .training import Divisor

Product = Callable[[Tensor], Tensor]
"""V (d, K, C) → H_k V_k."""

_CACHED = 2**17
"""Numbers of a piece's outputs that stay in a core's caches."""
_FEWEST_ROWS = 64
_FEW = 0.25
"""Share of the rows that may be edited, of K objectives together."""
_GRAPH = 10
"""Numbers for each output of each row that one linearisation keeps."""


class EditedObjectives:
    """K objectives over the same rows, each under an edit of them."""

    def __init__(
        self,
        objective: Objective,
        edits: HeadEdits,
        *,
        divisor: Divisor = "kept_n",
        memory_bytes: int = 2**30,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind objectives; `told` is called after every block of rows."""
        self.loss: Loss = objective.loss
        self.l2 = l2_of(objective)
        self._edits = edits
        self._told = told
        self._memory = memory_bytes
        n = self.l2.new_full((len(edits),), edits.rows)
        self._divisors = n if divisor == "kept_n" else (n - edits.removed).clamp(min=1)
        self._every = torch.arange(len(edits), device=n.device)

    def __len__(self) -> int:
        return len(self._edits)

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
        for block in self._edits.blocks():
            f, costs = self._costs(block, theta, at)
            (residuals,) = torch.autograd.grad(costs.sum(), f)
            value = value + costs.detach().sum(dim=0)
            gradient = gradient + block.gather(residuals)
            self._told()
        return value, gradient

    def gradients(self, theta: Tensor, at: Tensor) -> Tensor:
        """Return ∇R_k, (d, K, C), of the objectives `at` (K,) at Θ_k: one pass in pieces that stay in the caches.

        What all rows give is the same function for all K; what an edit changes of it comes from the edited rows.
        """
        d, K, C = theta.shape
        inner = theta.permute(0, 2, 1).reshape(d, C * K)
        total = torch.zeros_like(inner)
        for block in self._edits.unedited():
            shifted = bool(block.offsets.any())
            for part in block.parts(max(_FEWEST_ROWS, _CACHED // (C * K))):
                f = (part.features @ inner).view(-1, C, K)
                if shifted:
                    f += part.offsets[:, :, None]
                found = residuals(self.loss, f, part.targets)
                if part.weights is not None:
                    found = found * part.weights[:, None, None]
                total.addmm_(part.features.T, found.reshape(len(found), C * K))
            self._told()
        whole = total.view(d, C, K).permute(0, 2, 1)
        return (whole + self._difference(theta, at)) / self._divisors[at, None] + self.l2[:, None] * theta

    def gradients_at(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return ∇R_k, (d, K, C), of all K at one Θ (d, C), from the edited rows and ∇R(Θ), (d, C), on all rows."""
        shared = theta[:, None].expand(-1, len(self), -1)
        whole = self._edits.rows * (gradient - self.l2 * theta)[:, None]
        found = whole + self._difference(shared, self._every)
        return found / self._divisors[:, None] + self.l2[:, None] * shared

    @property
    def few(self) -> bool:
        """Whether so few rows are edited that what they change is less work than what all rows give."""
        return self._edits.touched <= _FEW * self._edits.rows

    def curvature(self, theta: Tensor, at: Tensor) -> Product:
        """Return the products with the Hessians of the objectives `at` (K,) at Θ_k."""
        taken = self._edits.rows * theta[0].numel() * theta.element_size() * _GRAPH
        kept = list(self._linearised(theta, at)) if taken <= self._memory else None

        def product(V: Tensor) -> Tensor:
            found = self.l2[:, None] * V
            for block, f, slopes in self._linearised(theta, at) if kept is None else kept:
                (curved,) = torch.autograd.grad(slopes, f, block.project(V), retain_graph=True)
                found = found + block.gather(curved)
                self._told()
            return found

        return product

    def largest_move(self, step: Tensor, at: Tensor) -> Tensor:
        """Return the largest change of an output, over the rows that each objective holds, for a step: (K,)."""
        largest = step.new_zeros(step.shape[1])
        for block in self._edits.blocks():
            moved = block.project(step).abs().amax(dim=2) * self._weights(block, at).gt(0)
            largest = torch.maximum(largest, moved.amax(dim=0))
        return largest

    def weight(self) -> Tensor:
        """Return Σ_i w_ik, (K,)."""
        return sum(self._weights(block, self._every).sum(dim=0) for block in self._edits.blocks()) * self._divisors

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
            for block in self._edits.blocks():
                for part in block.parts(size):
                    S = self.loss.curvature(part.outputs(theta[:, None])[:, 0], self._edits.targets(part, at))
                    x = part.features if features is None else part.features[:, features]
                    yield x, S * self._weights(part, at)[:, :, None]
                self._told()

        H = head_blocks(factors(), theta.new_zeros(C, d, C, d)).permute(1, 0, 3, 2).reshape(d * C, d * C)
        H.diagonal().add_(l2.reshape(-1))
        return H

    def _difference(self, theta: Tensor, at: Tensor) -> Tensor:
        """Return Σ_i w_ik ∇ℓ_ik − Σ_i w_i ∇ℓ_i, (d, K, C): nothing but what is edited has a part in it."""
        found = torch.zeros_like(theta)
        for block in self._edits.edited():
            f = block.outputs(theta).requires_grad_()
            K, C = f.shape[1:]
            flat = f.view(-1, C)
            own = 1 if block.weights is None else block.weights[:, None]
            new = self.loss.losses(flat, self._edits.targets(block, at)).view(-1, K) * self._edits.weights(block)[:, at]
            old = self.loss.losses(flat, repeated(block.targets, K)).view(-1, K) * own
            (change,) = torch.autograd.grad((new - old).sum(), f)
            found = found + block.gather(change)
        return found

    def _linearised(self, theta: Tensor, at: Tensor) -> Iterator[tuple[HeadBlock, Tensor, Tensor]]:
        for block in self._edits.blocks():
            f, costs = self._costs(block, theta, at)
            (residuals,) = torch.autograd.grad(costs.sum(), f, create_graph=True)
            yield block, f, residuals

    def _costs(self, block: HeadBlock, theta: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, K, C) and (w_ik/n_k) ℓ_ik, (B, K)."""
        f = block.outputs(theta).requires_grad_()
        K, C = f.shape[1:]
        losses = self.loss.losses(f.view(-1, C), self._edits.targets(block, at)).view(-1, K)
        return f, losses * self._weights(block, at)

    def _weights(self, block: HeadBlock, at: Tensor) -> Tensor:
        """Return w_ik/n_k of the objectives `at`, (B, K)."""
        return (self._edits.weights(block) / self._divisors)[:, at]
