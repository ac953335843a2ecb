"""Rows into what an index keeps of them."""

import torch
from torch import Tensor

from undue_service.engine.curvature.eigenbasis import DenseBasis
from undue_service.engine.data import Batch
from undue_service.engine.gradients import FactoredGradients, block_rows, head_gradients, loss_gradients
from undue_service.engine.leverage import leverage_block
from undue_service.engine.objective import Objective
from undue_service.engine.quadratic_forms import QuadraticForms
from undue_service.engine.solvers.refusals import refuse_not_finite

from .fitted import FittedIndex
from .layout import row_numel
from .quantised import quantise
from .rows import RowBlock


class Encoder:
    """Encodes rows for one index."""

    def __init__(self, fitted: FittedIndex, objective: Objective) -> None:
        """Bind an index to its objective, in the precision of its method."""
        self._fitted = fitted
        self._objective = objective
        self._forms = _forms(fitted, objective) if fitted.factors.leverage_correction else None

    def block_rows(self, memory_bytes: int) -> int:
        """Return how many rows to encode at once within a byte budget."""
        kept = row_numel(self._fitted.regions, self._objective.taps) + 4 * self._fitted.layout.row_numel
        return block_rows(self._objective, memory_bytes // 2, kept)

    def encode(self, batch: Batch) -> RowBlock:
        """Return what the index keeps of some rows.

        Args:
            batch: placed, with targets; its index has the rows' numbers in the index.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT; LEVERAGE_UNAVAILABLE where a row has leverage 1.
        """
        fitted = self._fitted
        gradients, residuals = self._gradients(batch)
        rotated = fitted.rotated(gradients)
        w = torch.ones_like(self._objective.theta[:1]) if batch.weights is None else batch.weights
        keys = fitted.keys(rotated) * w
        if not bool(torch.isfinite(keys).all()):
            row = int(batch.index[int((~torch.isfinite(keys)).nonzero()[0, 0])])
            refuse_not_finite(f"the gradient of row {row}")
        pairs = zip(fitted.numbers(rotated), fitted.columns, strict=True)
        numbers, units = zip(*(quantise(x, columns) for x, columns in pairs), strict=True)
        factored = 2 * len(fitted.layout.factors)
        sizes = [a * b for a, b in zip(units[:factored:2], units[1:factored:2], strict=True)]
        reference = gradients.dot(fitted.solved) * w[:, None] / fitted.rows
        return RowBlock(
            rows=batch.index,
            keys=keys.float().cpu(),
            scales=(torch.stack([*sizes, *units[factored:]]) * w).float().cpu(),
            numbers=tuple(one.cpu() for one in numbers),
            residuals=None if residuals is None else residuals.cpu(),
            reference=reference.float().cpu(),
        )

    def _gradients(self, batch: Batch) -> tuple[FactoredGradients, Tensor | None]:
        if self._forms is None:
            return loss_gradients(self._objective, batch), None
        block = leverage_block(self._objective, self._forms, batch, self._fitted.rows)
        residuals = block.corrected("register the model's l2, pass damping=, or leverage_correction=False")
        return head_gradients(self._objective, block.features, residuals), residuals


def _forms(fitted: FittedIndex, objective: Objective) -> QuadraticForms:
    [region] = fitted.regions
    assert isinstance(region.basis, DenseBasis)  # noqa: S101  only a matrix corrects for leverage
    assert region.basis.vectors is not None  # noqa: S101
    V = region.basis.vectors
    return QuadraticForms(objective.head, (V * region.inverse) @ V.T)
