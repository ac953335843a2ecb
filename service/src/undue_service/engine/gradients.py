"""Per-example gradients ∇_θ of losses and measurements, block by block. They never contain the L2 term."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason

from .data import Batch, Rows
from .measurements import measure
from .objective import Objective
from .taps import Block, Dense, Outer, Part, gram

T = TypeVar("T")

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

    def gram(self, other: "GradientBlock", scale: Sequence[float] | None = None) -> Tensor:
        """Return the inner products with the rows of another block, (B, B').

        Args:
            other: the gradients of B' rows of the same objective.
            scale: a factor for each block of θ (`Objective.taps.blocks`); None stands for ones.
        """


@dataclass(frozen=True)
class FactoredGradients:
    """Gradients in the blocks of θ that the program's taps are."""

    blocks: tuple[Block, ...]
    parts: tuple[Part, ...]
    """Of each block."""

    def dot(self, V: Tensor) -> Tensor:
        """See GradientBlock."""
        return sum(part.dot(block.take(V)) for block, part in self._pairs())

    def norms(self) -> Tensor:
        """See GradientBlock."""
        return torch.sqrt(sum(part.squares() for part in self.parts))

    def total(self, weights: Tensor | None) -> Tensor:
        """See GradientBlock."""
        totals = [part.total(weights) for part in self.parts]
        theta = totals[0].new_empty(sum(block.numel for block in self.blocks))
        for block, total in zip(self.blocks, totals, strict=True):
            block.put(total, theta)
        return theta

    def dense(self) -> Tensor:
        """See GradientBlock."""
        rows = [part.rows() for part in self.parts]
        found = rows[0].new_empty(len(rows[0]), sum(block.numel for block in self.blocks))
        for block, values in zip(self.blocks, rows, strict=True):
            found.index_copy_(1, block.positions, values)
        return found

    def gram(self, other: "FactoredGradients", scale: Sequence[float] | None = None) -> Tensor:
        """See GradientBlock."""
        scale = [1.0] * len(self.parts) if scale is None else scale
        found: Tensor | None = None
        for factor, own, others in zip(scale, self.parts, other.parts, strict=True):
            found = gram(own, others, factor, found)
        return found

    def _pairs(self) -> Iterator[tuple[Block, Part]]:
        return zip(self.blocks, self.parts, strict=True)


def loss_gradients(objective: Objective, batch: Batch) -> FactoredGradients:
    """Return ∇ℓ_i(θ̂) of a placed batch."""
    return _gradients(objective, batch, lambda f: objective.loss.losses(f, batch.targets))


def measurement_gradients(objective: Objective, batch: Batch, name: str = "loss") -> FactoredGradients:
    """Return ∇m_t(θ̂) of a placed batch as `Objective.explained` returns it."""
    return _gradients(objective, batch, lambda f: measure(name, objective.loss, f, batch.targets))


def dense_gradients(objective: Objective, gradients: Tensor) -> FactoredGradients:
    """Return gradients that are already written down, (B, P)."""
    blocks = objective.taps.blocks
    return FactoredGradients(blocks, tuple(Dense(gradients[:, block.positions]) for block in blocks))


def head_gradients(objective: Objective, features: Tensor, residuals: Tensor) -> FactoredGradients:
    """Return the gradients r_i ⊗ x̃_i of a linear head: residuals r (B, C) and features x̃ (B, d)."""
    head, blocks = objective.head, objective.taps.blocks
    parts: list[Part] = []
    for block in blocks:
        if block.kind == "outer":
            parts.append(Outer(features[:, None, None, : block.shape[2]], residuals[:, None, None]))
        elif head.has_bias and torch.equal(block.positions, head.positions[:, -1]):
            parts.append(Dense(residuals))
        else:
            outer = residuals[:, :, None] * features[:, None, :]
            parts.append(Dense(head.to_theta(outer.permute(1, 2, 0)).T[:, block.positions]))
    return FactoredGradients(blocks, tuple(parts))


def output_gradients(f: Tensor, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ∂cost/∂f, (B, C), of a cost (B,) that is a function of the outputs f (B, C), row by row."""
    f = f.detach().requires_grad_()
    with torch.enable_grad():
        (residuals,) = torch.autograd.grad(cost(f).sum(), f)
    return residuals


def each_block(
    objective: Objective,
    train: Rows,
    size: int,
    work: Callable[[Batch], T],
    select: Sequence[int] | None = None,
) -> Iterator[tuple[Batch, T]]:
    """Yield the training rows as placed batches with what is made of each; where memory runs out, the batches halve.

    Args:
        objective: whose rows they are.
        train: the data set.
        size: rows of a batch at most.
        work: makes something of a placed batch. It may be called again for rows that did not fit, so it keeps nothing.
        select: row numbers; None means all.

    Raises:
        InvalidArgument: TARGETS_MISSING where the data set has none.
        torch.OutOfMemoryError: where a single row does not fit.
    """
    for batch in training_batches(objective, train, size, select):
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            if len(part.index) > size:
                waiting += [part[size:], part[:size]]
                continue
            made = []
            try:
                made.append(work(part))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(part.index) == 1:
                    raise
                size = (len(part.index) + 1) // 2
                waiting.append(part)
            # Outside of the handler, whose traceback would hold what `work` had allocated.
            for one in made:
                yield part, one


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
    numel = 4 * objective.row_numel + objective.taps.row_numel + row_numel
    return int(torch.finfo(objective.program.dtype).bits // 8 * numel)


def _gradients(objective: Objective, batch: Batch, cost: Callable[[Tensor], Tensor]) -> FactoredGradients:
    capture = objective.taps.capture(batch.inputs)
    residuals = output_gradients(capture.outputs, cost)
    return FactoredGradients(objective.taps.blocks, capture.parts(residuals))


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out, of the host or of an accelerator."""
    allocator = ("can't allocate memory", "not enough memory")  # the CPU's says so in a RuntimeError
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in allocator)
