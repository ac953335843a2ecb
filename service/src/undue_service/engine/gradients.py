"""Per-example gradients ∇_θ of losses and measurements, block by block. They never contain the L2 term."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import grad, vmap

from undue_service.domain.errors import InvalidArgument, Reason

from .data import Batch, Rows
from .head import LinearHead
from .measurements import measure
from .objective import Objective

_MAX_BLOCK = 4096  # more rows gain no speed, and a caller wants to hear from us between blocks


class GradientBlock(Protocol):
    """The gradients of B rows, in whatever form is cheapest."""

    def dot(self, V: Tensor) -> Tensor:
        """Return the inner products with columns V (P, K): (B, K)."""

    def norms(self) -> Tensor:
        """Return the Euclidean norms, (B,)."""

    def total(self, weights: Tensor | None) -> Tensor:
        """Return the weighted sum, (P,); the weights are (B,), None stands for ones."""

    def dense(self) -> Tensor:
        """Return the gradients, (B, P)."""


@dataclass(frozen=True)
class DenseGradients:
    """Gradients as they are."""

    gradients: Tensor
    """(B, P)."""

    def dot(self, V: Tensor) -> Tensor:
        """See GradientBlock."""
        return self.gradients @ V

    def norms(self) -> Tensor:
        """See GradientBlock."""
        return torch.linalg.vector_norm(self.gradients, dim=1)

    def total(self, weights: Tensor | None) -> Tensor:
        """See GradientBlock."""
        return self.gradients.sum(dim=0) if weights is None else weights @ self.gradients

    def dense(self) -> Tensor:
        """See GradientBlock."""
        return self.gradients


@dataclass(frozen=True)
class FactoredGradients:
    """Gradients r_i ⊗ x̃_i of a linear head, as their factors."""

    head: LinearHead
    residuals: Tensor
    """r, (B, C)."""
    features: Tensor
    """x̃, (B, d)."""

    def dot(self, V: Tensor) -> Tensor:
        """Return Σ_cj r_ic x̃_ij V_cj, (B, K), without the (B, P) gradients."""
        coefficients = self.head.from_theta(V)
        outputs, features, columns = coefficients.shape
        projected = (self.features @ coefficients.transpose(0, 1).reshape(features, outputs * columns)).view(
            -1, outputs, columns
        )
        return torch.bmm(self.residuals[:, None, :], projected)[:, 0, :]

    def norms(self) -> Tensor:
        """Return ‖r‖·‖x̃‖, (B,)."""
        return torch.linalg.vector_norm(self.residuals, dim=1) * torch.linalg.vector_norm(self.features, dim=1)

    def total(self, weights: Tensor | None) -> Tensor:
        """See GradientBlock."""
        residuals = self.residuals if weights is None else self.residuals * weights[:, None]
        return self.head.to_theta(residuals.T @ self.features)

    def dense(self) -> Tensor:
        """See GradientBlock."""
        outer = self.residuals[:, :, None] * self.features[:, None, :]
        return self.head.to_theta(outer.permute(1, 2, 0)).T.contiguous()


def loss_gradients(objective: Objective, batch: Batch) -> GradientBlock:
    """Return ∇ℓ_i(θ̂) of a placed batch."""
    if objective.head is not None:
        return head_gradients(objective, batch, lambda f: objective.loss.losses(f, batch.targets))
    return DenseGradients(_vmapped(objective, batch, objective.losses))


def measurement_gradients(objective: Objective, batch: Batch, name: str = "loss") -> GradientBlock:
    """Return ∇m_t(θ̂) of a placed batch as `Objective.explained` returns it."""
    if objective.head is not None:
        return head_gradients(objective, batch, lambda f: measure(name, objective.loss, f, batch.targets))
    return DenseGradients(_vmapped(objective, batch, lambda theta, row: objective.measurement(theta, row, name)))


def head_gradients(objective: Objective, batch: Batch, cost: Callable[[Tensor], Tensor]) -> FactoredGradients:
    """Return the gradients of a cost (B,) that is a function of the outputs f (B, C) of a linear head, row by row."""
    features, f = objective.head.evaluate(batch.inputs)
    f = f.detach().requires_grad_()
    with torch.enable_grad():
        (residuals,) = torch.autograd.grad(cost(f).sum(), f)
    return FactoredGradients(objective.head, residuals, features.detach())


def training_batches(
    objective: Objective, train: Rows, size: int, select: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Yield the training rows as placed batches.

    Raises:
        InvalidArgument: TARGETS_MISSING where the data set has none.
    """
    for raw in train.batches(size, select):
        if raw.targets is None:
            text = "the training data has no targets, so no row has a loss: register it with targets"
            raise InvalidArgument.at("train", text, Reason.TARGETS_MISSING)
        yield objective.place(raw)


def block_rows(objective: Objective, memory_bytes: int, row_numel: int = 0) -> int:
    """Return how many rows fit into a byte budget, at least one and at most 4096."""
    return max(1, min(_MAX_BLOCK, memory_bytes // row_bytes(objective, row_numel)))


def row_bytes(objective: Objective, row_numel: int = 0) -> int:
    """Return what the intermediate values of one row take, `row_numel` numbers of the caller's own included."""
    numel = 4 * objective.program.graph.row_numel() + row_numel
    numel += 4 * objective.head.features if objective.head is not None else 3 * objective.space.dim
    return int(torch.finfo(objective.program.dtype).bits // 8 * numel)


def _vmapped(objective: Objective, batch: Batch, cost: Callable[[Tensor, Batch], Tensor]) -> Tensor:
    """Return the gradient of each row's cost by vmap(grad), (B, P)."""
    targets = {} if batch.targets is None else {"targets": batch.targets}

    def of_row(theta: Tensor, inputs: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        row = Batch(
            inputs={name: tensor[None] for name, tensor in inputs.items()},
            targets=target["targets"][None] if target else None,
            weights=None,
            index=batch.index[:1],
        )
        return cost(theta, row)[0]

    return vmap(grad(of_row), in_dims=(None, 0, 0))(objective.theta, dict(batch.inputs), targets)
