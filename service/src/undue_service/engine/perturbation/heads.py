"""K linear heads, each over the same rows with some of its own moved: their objectives, fits and curvature, in float64.

R_k(Θ) = (1/n) [Σ_{i ∉ S_k} w_i ℓ(x̃_i Θ + o_i, y_i) + Σ_{i ∈ S_k} w_i ℓ(x̃'_ki Θ + o'_ki, y_i)] + ½ Σ l2 ∘ Θ², Θ (d, C)

S_k are the rows that attack k moves, and x̃' and o' what the model makes of them now. A head moves a little at each
step, so Newton's steps and the solves with H_k are by conjugate gradients, preconditioned by the Hessian of the
unperturbed objective, which is factorised once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature.head import head_blocks
from undue_service.engine.losses import Loss, SquaredError
from undue_service.engine.retraining.head_rows import HeadBlock, repeated

from .double_rows import DoubleRows

Product = Callable[[Tensor], Tensor]
"""V (d, K, C) → H_k V_k."""

_GRAPH = 10
"""Numbers for each output of each row that one linearisation keeps."""
_LIFT = 1e-6
_RESIDUAL = 1e-8
_MOST_PRODUCTS = 1000


@dataclass(frozen=True)
class Moved:
    """The rows that K attacks have moved, M each, as the heads see them."""

    rows: Tensor
    """Their numbers, (K, M) int64."""
    features: Tensor
    """x̃', (K, M, d) float64."""
    offsets: Tensor
    """o', (K, M, C) float64."""
    targets: Tensor
    """(K, M) or (K, M, C)."""
    weights: Tensor
    """w_i, (K, M) float64."""

    def of(self, at: Tensor) -> "Moved":
        """Return those of some attacks."""
        return Moved(self.rows[at], self.features[at], self.offsets[at], self.targets[at], self.weights[at])


class PerturbedHeads:
    """K objectives, as `Newton.minimise` takes them; K = 1 with `moved` None is the unperturbed one."""

    def __init__(
        self,
        loss: Loss,
        l2: Tensor,
        rows: DoubleRows,
        moved: Moved | None,
        *,
        memory_bytes: int = 2**30,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind objectives.

        Args:
            loss: ℓ.
            l2: l2 · mask, (d, C) float64.
            rows: the unperturbed rows.
            moved: what is different.
            memory_bytes: budget of a linearisation.
            told: called after every block of rows.
        """
        self.loss = loss
        self.l2 = l2
        self._rows = rows
        self._moved = moved
        self._memory = memory_bytes
        self._told = told
        self._count = 1 if moved is None else len(moved.rows)

    @property
    def modulus(self) -> float:
        """Return μ for which R − μ/2 ‖Θ‖² is convex."""
        return float(self.l2.min())

    @property
    def quadratic(self) -> bool:
        """Whether R is a quadratic of Θ."""
        return isinstance(self.loss, SquaredError)

    def evaluate(self, theta: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return R_k, (A,), and ∇R_k, (d, A, C), of the objectives `at` (A,) at Θ_k."""
        gradient = self.l2[:, None] * theta
        value = 0.5 * (gradient * theta).sum(dim=(0, 2))
        for part in self._parts(at):
            f, costs = self._costs(part, theta)
            (residuals,) = torch.autograd.grad(costs.sum(), f)
            value = value + costs.detach().sum(dim=0)
            gradient = gradient + part.gather(residuals)
            self._told()
        return value, gradient

    def curvature(self, theta: Tensor, at: Tensor) -> Product:
        """Return the products with the Hessians of the objectives `at` (A,) at Θ_k."""
        taken = len(self._rows) * theta[0].numel() * theta.element_size() * _GRAPH
        kept = list(self._linearised(theta, at)) if taken <= self._memory else None

        def product(V: Tensor) -> Tensor:
            found = self.l2[:, None] * V
            for part, f, residuals in self._linearised(theta, at) if kept is None else kept:
                (curved,) = torch.autograd.grad(residuals, f, part.project(V), retain_graph=True)
                found = found + part.gather(curved)
                self._told()
            return found

        return product

    def largest_move(self, step: Tensor, at: Tensor) -> Tensor:
        """Return the largest change of an output for a step: (A,)."""
        largest = step.new_zeros(step.shape[1])
        for part in self._parts(at):
            moved = part.project(step).abs().amax(dim=2) * part.weights.gt(0)
            largest = torch.maximum(largest, moved.amax(dim=0))
        return largest

    def dense(self, theta: Tensor) -> Tensor:
        """Return the Hessian of the unperturbed objective at Θ (d, C), over coefficients (d, C) laid flat."""
        d, C = theta.shape
        size = max(1, self._memory // (theta.element_size() * (4 * C * C + 2 * d * C)))
        n = len(self._rows)

        def factors() -> Iterator[tuple[Tensor, Tensor]]:
            for block in self._rows.blocks():
                for part in block.parts(size):
                    S = self.loss.curvature(part.outputs(theta[:, None])[:, 0], part.targets)
                    yield part.features, S / n if part.weights is None else S * (part.weights / n)[:, None, None]
                self._told()

        H = head_blocks(factors(), theta.new_zeros(C, d, C, d)).permute(1, 0, 3, 2).reshape(d * C, d * C)
        H.diagonal().add_(self.l2.reshape(-1))
        return H

    def _linearised(self, theta: Tensor, at: Tensor) -> Iterator[tuple["_Shared | _Own", Tensor, Tensor]]:
        for part in self._parts(at):
            f, costs = self._costs(part, theta)
            (residuals,) = torch.autograd.grad(costs.sum(), f, create_graph=True)
            yield part, f, residuals

    def _costs(self, part: "_Shared | _Own", theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (B, A, C) and (w_i/n) ℓ_i, 0 where a row is not of an objective, (B, A)."""
        with torch.enable_grad():
            f = part.outputs(theta).requires_grad_()
            B, A, C = f.shape
            return f, self.loss.losses(f.reshape(-1, C), part.targets).view(B, A) * part.weights

    def _parts(self, at: Tensor) -> Iterator["_Shared | _Own"]:
        n = len(self._rows)
        rows = None if self._moved is None else self._moved.rows[at]
        for block in self._rows.blocks():
            yield _Shared(block, _weights(block, rows, len(at), n), repeated(block.targets, len(at)))
        if self._moved is not None:
            yield _Own(self._moved.of(at), n)


class _Shared:
    """A block of rows that all objectives share."""

    def __init__(self, block: HeadBlock, weights: Tensor, targets: Tensor) -> None:
        self._block = block
        self.weights = weights
        self.targets = targets

    def outputs(self, theta: Tensor) -> Tensor:
        return self._block.outputs(theta)

    def project(self, theta: Tensor) -> Tensor:
        return self._block.project(theta)

    def gather(self, values: Tensor) -> Tensor:
        return self._block.gather(values)


class _Own:
    """The rows that each objective has alone."""

    def __init__(self, moved: Moved, n: int) -> None:
        self._moved = moved
        self.weights = moved.weights.T / n
        self.targets = moved.targets.transpose(0, 1).flatten(0, 1)

    def outputs(self, theta: Tensor) -> Tensor:
        return self.project(theta) + self._moved.offsets.transpose(0, 1)

    def project(self, theta: Tensor) -> Tensor:
        return torch.bmm(self._moved.features, theta.transpose(0, 1)).transpose(0, 1)

    def gather(self, values: Tensor) -> Tensor:
        return torch.bmm(self._moved.features.transpose(1, 2), values.transpose(0, 1)).transpose(0, 1)


def _weights(block: HeadBlock, moved: Tensor | None, A: int, n: int) -> Tensor:
    """Return w_i/n, 0 where an objective has moved the row, (B, A)."""
    features = block.features
    own = features.new_full((len(features),), 1 / n) if block.weights is None else block.weights / n
    found = own[:, None].expand(-1, A).clone()
    if moved is not None:
        first, last = int(block.index[0]), int(block.index[-1])
        a, m = ((moved >= first) & (moved <= last)).nonzero(as_tuple=True)
        found[(moved[a, m] - first).to(found.device), a.to(found.device)] = 0
    return found


class Factor:
    """The inverse of a matrix over coefficients (d, C) laid flat, lifted where it is singular: a preconditioner."""

    def __init__(self, H: Tensor) -> None:
        """Factorise H in place.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT.
        """
        if not bool(torch.isfinite(H).all()):
            text = "the Hessian is not finite at the fitted weights; check the inputs and the model's weights"
            raise FailedPrecondition(Reason.NON_FINITE_RESULT, text)
        size = float(H.diagonal().abs().mean())
        self._factor, info = torch.linalg.cholesky_ex(H)
        lift = _LIFT * max(size, torch.finfo(H.dtype).tiny)
        while int(info):
            H.diagonal().add_(lift)
            self._factor, info = torch.linalg.cholesky_ex(H)
            lift *= 10

    def __call__(self, V: Tensor) -> Tensor:
        """Return H⁻¹ V_k of V (d, K, C)."""
        d, K, C = V.shape
        columns = V.permute(0, 2, 1).reshape(d * C, K)
        return torch.cholesky_solve(columns, self._factor).view(d, C, K).permute(0, 2, 1)


def solve(product: Product, right: Tensor, precondition: Product, damping: float) -> tuple[Tensor, int]:
    """Return (H_k + λI)⁻¹ of right-hand sides (d, K, C) by preconditioned conjugate gradients, and the products.

    Raises:
        FailedPrecondition: SOLVER_NOT_CONVERGED.
    """
    found, residual = torch.zeros_like(right), right.clone()
    goal = _RESIDUAL * _norm(right)
    z = precondition(residual)
    direction, rho = z, _dot(residual, z)
    open_ = _norm(residual) > goal
    products = 0
    while bool(open_.any()):
        if products >= _MOST_PRODUCTS:
            worst = float((_norm(residual) / _norm(right).clamp(min=1e-300)).max())
            text = (
                f"s_T was not found within {_MOST_PRODUCTS} products with the Hessian (relative residual {worst:.2g}); "
                "pass a damping > 0, or register the model with a larger l2"
            )
            raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata={"residual": f"{worst:.6g}"})
        pushed = product(direction) + damping * direction
        products += 1
        curvature = _dot(direction, pushed)
        alpha = torch.where(open_ & (curvature > 0), rho / curvature.where(curvature > 0, 1), 0)[:, None]
        found, residual = found + alpha * direction, residual - alpha * pushed
        z = precondition(residual)
        before, rho = rho, _dot(residual, z)
        direction = z + (rho / before.where(before > 0, 1))[:, None] * direction
        open_ &= _norm(residual) > goal
    return found, products


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(0, 2))


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
